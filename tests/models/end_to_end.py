"""A training, its resumption and its export; no test, but an experiment on any network:

python -m tests.models.end_to_end --photos=PHOTOS --side=64 keras:ResNet50 file:a.keras

Each network learns with AFD beside a ResNet-8, twice: undisturbed, and stopped by
SIGTERM after its first epoch and continued. Then it is exported in every format, with
random weights whose answers to the first 100 photos differ. PHOTOS is a folder of some
hundred photos with a folder for each class. Prints a line of JSON for each network.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from afd_tf import models
from afd_tf.artifacts.manifest import FORMATS
from afd_tf.data.image_files import read_image
from tests import exports, tiny
from tests.soak import outcome

EPOCHS = 2
IMAGES = 100


def command(name: str, given: argparse.Namespace, run_dir: Path) -> list[str]:
    """Returns the command of a training."""
    return [
        *(sys.executable, "-m", "afd_tf.train", f"--dataset=folder:{given.photos}"),
        *(f"--image_size={given.side}", f"--run_dir={run_dir}", f"--epochs={EPOCHS}"),
        *("--method=afd", f"--peers={name},resnet8", "--batch_size=16"),
        *("--learning_rate=0.01", "--deterministic", "--nodownload"),
    ]


def stop_after_first_epoch(arguments: list[str]) -> None:
    """Runs a training until its first epoch is reported, and lets it save."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, text=True, **pipes) as process:
        for line in process.stderr:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 0, line


def is_the_same_when_continued(name: str, given: argparse.Namespace) -> bool:
    """Trains twice, and returns whether both runs end with the same bits."""
    with tempfile.TemporaryDirectory() as directory:
        undisturbed = Path(directory, "undisturbed")
        stopped = Path(directory, "stopped")
        stop_after_first_epoch(command(name, given, stopped))
        assert not (stopped / "summary.json").exists()
        for run_dir in (stopped, undisturbed):
            arguments = command(name, given, run_dir)
            subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        return outcome(stopped) == outcome(undisturbed)


def exported(name: str, given: argparse.Namespace) -> dict[str, dict]:
    """Returns how each format agrees with a network whose answers differ."""
    info = tiny.info((given.side, given.side, 3))
    peer = models.build_peer(name, info)
    images = exports.OneImage(info)
    files = sorted(Path(given.photos).glob("*/*"))[:IMAGES]
    images.images = np.stack(
        [read_image(str(path), channels=3, image_size=given.side) for path in files]
    )
    # The statistics of these images, without which all answers would be alike.
    for layer in peer._flatten_layers():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.0
    peer(images.images, training=True)
    exports.tell_apart(peer, images.images)
    with tempfile.TemporaryDirectory() as directory:
        answer, _ = exports.export(
            peer, images, Path(directory), list(FORMATS), max_accuracy_drop=1.0
        )
    return {
        kind: {key: entry[key] for key in ("agreement", "probability_difference")}
        for kind, entry in answer["formats"].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A training, resumption and export.")
    parser.add_argument("names", nargs="+", help="networks, as --peers names them")
    parser.add_argument("--photos", required=True, help="a folder of classes")
    parser.add_argument("--side", type=int, default=64, help="pixels of the images")
    given = parser.parse_args()
    for name in given.names:
        result = {
            "network": name,
            "image_size": given.side,
            "same_when_continued": is_the_same_when_continued(name, given),
            "formats": exported(name, given),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
