"""A training, its resumption and its export; no test, but an experiment on any network:

python -m tests.models.end_to_end --photos=PHOTOS --side=64 keras:ResNet50 file:a.keras

Each network learns with AFD beside a ResNet-8, twice: undisturbed, and stopped by
SIGTERM after its first epoch and continued. PHOTOS is a folder of some hundred photos
with a folder for each class. Prints a line of JSON for each network.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from afd_tf.artifacts.manifest import FORMATS

EPOCHS = 6


def command(name: str, given: argparse.Namespace, run_dir: Path) -> list[str]:
    """Returns the command of a training."""
    return [
        *(sys.executable, "-m", "afd_tf.train", f"--dataset=folder:{given.photos}"),
        *(f"--image_size={given.side}", f"--run_dir={run_dir}", f"--epochs={EPOCHS}"),
        *("--method=afd", f"--peers={name},resnet8", "--batch_size=16"),
        *("--learning_rate=0.01", "--deterministic", "--nodownload"),
    ]


def left_behind(run_dir: Path) -> tuple:
    """Returns the digests of the last checkpoint's files, and the metrics."""
    (*_, last) = sorted((run_dir / "checkpoints").glob("step_*"))
    state = json.loads((last / "state.json").read_text())
    return last.name, state["files"], (run_dir / "metrics.jsonl").read_text()


def stop_after_first_epoch(arguments: list[str]) -> None:
    """Runs a training until its first epoch is reported, and lets it save."""
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, line


def run(name: str, given: argparse.Namespace) -> dict:
    """Returns what became of a network."""
    with tempfile.TemporaryDirectory() as directory:
        undisturbed = Path(directory, "undisturbed")
        stopped = Path(directory, "stopped")
        arguments = command(name, given, stopped)
        stop_after_first_epoch(arguments)
        assert not (stopped / "summary.json").exists()
        subprocess.run(arguments, check=True)
        subprocess.run(command(name, given, undisturbed), check=True)
        export = [
            *(sys.executable, "-m", "afd_tf.export", f"--run_dir={undisturbed}"),
            *("--peer=0", f"--export_dir={directory}/exported", "--checkpoint=last"),
            *(f"--formats={','.join(FORMATS)}", "--max_accuracy_drop=1"),
        ]
        printed = subprocess.run(export, check=True, stdout=subprocess.PIPE).stdout
        exported = json.loads(printed.splitlines()[-1])
        return {
            "network": name,
            "image_size": given.side,
            "same_when_continued": left_behind(stopped) == left_behind(undisturbed),
            "formats": {
                kind: {
                    key: entry[key]
                    for key in ("accuracy", "agreement", "probability_difference")
                }
                for kind, entry in exported["formats"].items()
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="A training, resumption and export.")
    parser.add_argument("names", nargs="+", help="networks, as --peers names them")
    parser.add_argument("--photos", required=True, help="a folder of classes")
    parser.add_argument("--side", type=int, default=64, help="pixels of the images")
    given = parser.parse_args()
    for name in given.names:
        print(json.dumps(run(name, given)), flush=True)


if __name__ == "__main__":
    main()
