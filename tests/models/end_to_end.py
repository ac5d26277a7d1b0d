"""A training, its resumption and its export; no test, but an experiment on any network:

python -m tests.models.end_to_end --side=64 keras:ResNet50 file:a.keras

Each network learns digits with AFD beside a ResNet-8, twice: undisturbed, and stopped
by SIGTERM after its first epoch and continued. It is then exported in every format,
each of which is measured on the 360 test images. Prints a line of JSON for each.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from afd_tf.artifacts.manifest import FORMATS
from tests.soak import outcome

MEASURED = ("accuracy", "agreement", "probability_difference")


def command(name: str, given: argparse.Namespace, run_dir: Path) -> list[str]:
    """Returns the command of a training."""
    return [
        *(sys.executable, "-m", "afd_tf.train", "--dataset=digits"),
        *(f"--image_size={given.side}", f"--epochs={given.epochs}"),
        *("--method=afd", f"--peers={name},resnet8", "--batch_size=32"),
        *("--learning_rate=0.02", "--schedule=cosine", "--warmup_epochs=1"),
        *("--deterministic", f"--run_dir={run_dir}"),
    ]


def stop_after_first_epoch(arguments: list[str]) -> None:
    """Runs a training until its first epoch is reported, and lets it save."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, text=True, **pipes) as process:
        for line in process.stderr:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, line


def exported(run_dir: Path) -> dict[str, dict]:
    """Returns the figures of the first peer in each format."""
    arguments = [
        *(sys.executable, "-m", "afd_tf.export", f"--run_dir={run_dir}", "--peer=0"),
        *(f"--export_dir={run_dir / 'exported'}", f"--formats={','.join(FORMATS)}"),
        "--max_accuracy_drop=1",
    ]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
    return {
        kind: {key: entry[key] for key in MEASURED}
        for kind, entry in json.loads(done.stdout)["formats"].items()
    }


def tried(name: str, given: argparse.Namespace) -> dict:
    """Returns whether two runs end with the same bits, and the formats' figures."""
    with tempfile.TemporaryDirectory() as directory:
        undisturbed = Path(directory, "undisturbed")
        stopped = Path(directory, "stopped")
        stop_after_first_epoch(command(name, given, stopped))
        assert not (stopped / "summary.json").exists()
        for run_dir in (stopped, undisturbed):
            arguments = command(name, given, run_dir)
            subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        ended = outcome(undisturbed)
        return {
            "network": name,
            "image_size": given.side,
            "epochs": given.epochs,
            "same_when_continued": outcome(stopped) == ended,
            "accuracy": ended["summary"]["peers"][0]["accuracy"],
            "formats": exported(undisturbed),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="A training, resumption and export.")
    parser.add_argument("names", nargs="+", help="networks, as --peers names them")
    parser.add_argument("--side", type=int, default=64, help="pixels of the images")
    parser.add_argument("--epochs", type=int, default=4, help="length of a training")
    given = parser.parse_args()
    for name in given.names:
        print(json.dumps(tried(name, given)), flush=True)


if __name__ == "__main__":
    main()
