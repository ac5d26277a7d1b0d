"""Injects random faults into a run with two workers; a command and not a test:

    python -m tests.soak --faults=30 --log=results/soak.log

An undisturbed run on digits comes first. Then the same run is disturbed by `kill -9`
and SIGTERM of the chief or the worker, by a full disk (if --small_disk is a directory
on a small file system, such as a tmpfs), and by damage to the newest checkpoint. A
process that ends is started again, as a cluster manager does. Every other fault waits
for a new checkpoint, so that not only start-up is disturbed. At the end, metrics,
summary and the variables of the last checkpoint have to be those of the undisturbed
run, bit for bit.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from afd_tf.benchmarks.communication import free_addresses, tf_config
from afd_tf.training.run_directory import commit

FAULTS = (
    "kill the chief",
    "kill the worker",
    "SIGTERM to the chief",
    "SIGTERM to the worker",
    "damage the newest checkpoint",
    "fill the disk",
)
FLAGS = (
    "--dataset=digits",
    "--method=dml",
    "--peers=resnet8,resnet8",
    "--batch_size=128",
    "--save_minutes=0",
)


class Workers:
    """Two processes that train together and are started again when they end."""

    def __init__(self, run_dir: Path, epochs: int, log):
        self.run_dir = run_dir
        self.log = log
        self.command = [
            sys.executable,
            "-m",
            "afd_tf.train",
            *FLAGS,
            f"--epochs={epochs}",
            f"--run_dir={run_dir}",
        ]
        self.addresses = free_addresses(2)
        self.processes = [self.start(number) for number in (0, 1)]

    def start(self, number: int) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            env={**os.environ, **tf_config(self.addresses, number)},
            stdout=subprocess.DEVNULL,
            stderr=self.log,
        )

    @property
    def done(self) -> bool:
        return (self.run_dir / "summary.json").exists()

    def restart(self) -> None:
        for number, process in enumerate(self.processes):
            if process.poll() is not None and not self.done:
                self.processes[number] = self.start(number)

    @property
    def newest(self) -> str:
        """The name of the newest checkpoint, or "" if there is none."""
        found = sorted((self.run_dir / "checkpoints").glob("step_*[0-9]"))
        return found[-1].name if found else ""

    def wait(self, seconds: float) -> bool:
        """Restarts what ends, for so many seconds; returns whether the run is done."""
        deadline = time.time() + seconds
        while time.time() < deadline and not self.done:
            self.restart()
            time.sleep(0.2)
        return self.done

    def end(self) -> None:
        """Waits for the end of both processes, and kills them if they do not end."""
        for process in self.processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def disturb(fault: str, workers: Workers, generator: random.Random, small: bool) -> str:
    """Injects a fault and returns a description of it, or "nothing: <why>"."""
    chief, worker = workers.processes
    if fault.startswith("kill"):
        (chief if "chief" in fault else worker).kill()
    elif fault.startswith("SIGTERM"):
        (chief if "chief" in fault else worker).send_signal(signal.SIGTERM)
    elif fault == "damage the newest checkpoint":
        # Only a process that starts reads a checkpoint.
        found = sorted((workers.run_dir / "checkpoints").glob("step_*[0-9]"))
        if not found:
            return "nothing: no checkpoint yet"
        file = generator.choice([p for p in found[-1].iterdir() if p.is_file()])
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        for process in workers.processes:
            process.kill()
        return f"{fault}: half of {file.relative_to(workers.run_dir)}, and kill both"
    elif fault == "fill the disk":
        if not small:
            return "nothing: no small disk"
        filler = workers.run_dir.parent / "filler"
        with filler.open("wb") as file:
            try:
                while file.write(b"0" * 65536):
                    file.flush()
            except OSError:
                pass
        workers.wait(generator.uniform(2, 8))
        filler.unlink(missing_ok=True)
    return fault


def outcome(run_dir: Path) -> dict:
    """All that a run writes, except times."""
    (*_, last) = sorted((run_dir / "checkpoints").glob("step_*[0-9]"))
    summary = json.loads((run_dir / "summary.json").read_text())
    for name in ("seconds", "images_per_second"):
        del summary[name]
    return {
        "files": json.loads((last / "state.json").read_text())["files"],
        "metrics": (run_dir / "metrics.jsonl").read_text().splitlines(),
        "summary": summary,
    }


@contextlib.contextmanager
def logged(path: str, program: str) -> Iterator[tuple[Callable, Path, TextIO]]:
    """Opens the report of an experiment, which begins with its command and commit.

    Args:
      path: of the report.
      program: the module that runs.

    Yields:
      a function that adds a line with the time since the beginning, a directory that is
      removed at the end, and a file there for what processes say on stderr.
    """
    began = time.time()
    with (
        tempfile.TemporaryDirectory() as directory,
        open(path, "w") as report,
        open(Path(directory) / "stderr", "w") as log,
    ):

        def say(text: str) -> None:
            print(f"[{time.time() - began:6.1f} s] {text}", file=report, flush=True)

        say(f"python -m {program} {' '.join(sys.argv[1:])}, commit {commit()}")
        yield say, Path(directory), log


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--faults", type=int, default=30, help="Number of faults to inject."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the faults.")
    parser.add_argument("--epochs", type=int, default=60, help="Length of the runs.")
    parser.add_argument("--small_disk", help="Directory on a file system of a few MB.")
    parser.add_argument("--log", default="soak.log", help="File for the report.")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    with logged(arguments.log, "tests.soak") as (say, directory, log):
        say(f"two workers train with {' '.join(FLAGS)}")
        say(f"{arguments.epochs} epochs undisturbed")
        quiet = Workers(directory / "undisturbed", arguments.epochs, log)
        quiet.wait(3600)
        quiet.end()
        home = Path(arguments.small_disk or directory)
        run_dir = home / "disturbed"
        shutil.rmtree(run_dir, ignore_errors=True)
        workers = Workers(run_dir, arguments.epochs, log)
        done, kinds = 0, collections.Counter()
        while done < arguments.faults:
            before = workers.newest
            if workers.wait(generator.uniform(3, 25)):
                break
            while done % 2 and workers.newest <= before and not workers.done:
                workers.wait(1)
            fault = generator.choice(FAULTS)
            description = disturb(fault, workers, generator, bool(arguments.small_disk))
            if not description.startswith("nothing"):
                done += 1
                kinds[fault] += 1
            say(f"{done}: {description}; newest checkpoint {workers.newest}")
        workers.wait(3600)
        workers.end()
        same = outcome(run_dir) == outcome(directory / "undisturbed")
        say(f"{done} faults: {', '.join(f'{n} x {kind}' for kind, n in kinds.items())}")
        say(
            "sha256 of the files, metrics and summary are "
            f"{'' if same else 'NOT '}those of the undisturbed run"
        )
    return 0 if same and done == arguments.faults else 1


if __name__ == "__main__":
    sys.exit(main())
