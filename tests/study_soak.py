"""Kills a study again and again; a command and not a test:

    python -m tests.study_soak --kills=10 --log=results/study_soak.log

A study of two methods and two seeds on digits comes first, undisturbed. Then the same
study is killed with `kill -9` at random moments, every other time together with the
runs that it has begun, and started again. At the end, the checkpoints, metrics and
summaries of all runs and the table of the report have to be those of the undisturbed
study, but for times and places.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.soak import logged, outcome

FLAGS = (
    "--dataset=digits",
    "--peers=resnet8,resnet8",
    "--batch_size=128",
    "--epochs=40",
    "--save_minutes=0",
)
METHODS = ("independent", "dml")
SEEDS = (0, 1)


def start(output: Path, log) -> subprocess.Popen:
    """Begins or continues the study of the flag files beside its directory."""
    files = [output.parent / f"{name}.cfg" for name in METHODS]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "afd_tf.study", "--parallel=2"),
            f"--flagfiles={','.join(map(str, files))}",
            f"--seeds={','.join(map(str, SEEDS))}",
            *(f"--output={output}", "--", *FLAGS),
        ],
        stdout=subprocess.DEVNULL,
        stderr=log,
    )


def result(output: Path) -> dict:
    """All that a study writes, except times and places."""
    table = json.loads((output / "report" / "tables.json").read_text())
    return {
        "table": without(table, ("seconds", "directories")),
        **{
            f"{name}/seed{seed}": outcome(output / name / f"seed{seed}")
            for name in METHODS
            for seed in SEEDS
        },
    }


def without(value, keys):
    """Returns JSON values without the entries of these keys."""
    if isinstance(value, dict):
        return {k: without(v, keys) for k, v in value.items() if k not in keys}
    if isinstance(value, list):
        return [without(each, keys) for each in value]
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="Number of kills.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of their moments.")
    parser.add_argument("--log", default="study_soak.log", help="File for the report.")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    with logged(arguments.log, "tests.study_soak") as (say, home, log):
        for name in METHODS:
            (home / f"{name}.cfg").write_text(f"--method={name}\n")
        say(f"a study of {', '.join(METHODS)} with {' '.join(FLAGS)}, undisturbed")
        undisturbed = time.time()
        start(home / "undisturbed", log).wait()
        undisturbed = time.time() - undisturbed
        output = home / "disturbed"
        kills = 0
        while kills < arguments.kills:
            process = start(output, log)
            try:
                process.wait(generator.uniform(1, 0.2 * undisturbed))
                break
            except subprocess.TimeoutExpired:
                pass
            kills += 1
            if kills % 2:
                what = "the study"
                process.kill()
            else:
                # The runs name the directory on their command line, as the study does.
                what = "the study and its runs"
                subprocess.run(["pkill", "-KILL", "-f", str(output)], check=False)
            process.wait()
            done = len(list(output.glob("*/*/summary.json")))
            say(f"{kills}: kill -9 of {what}; {done} runs were finished")
        code = start(output, log).wait()
        same = code == 0 and result(output) == result(home / "undisturbed")
        say(
            f"after {kills} kills, checkpoints, metrics, summaries and the table are "
            f"{'' if same else 'NOT '}those of the undisturbed study"
        )
    return 0 if same and kills == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
