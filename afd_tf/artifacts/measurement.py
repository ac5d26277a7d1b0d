"""Accuracy and latency of an exported peer's files, and those that lose too much."""

import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.evaluation import compare_networks
from afd_tf.artifacts.manifest import FORMATS
from afd_tf.artifacts.networks import ClassifierNetwork
from afd_tf.artifacts.peer_network import peer_network
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.data import Dataset
from afd_tf.models import Peer

# Of each format, after one that is not counted.
_TIMED_CALLS = 10


def measure_formats(
    peer: Peer, dataset: Dataset, directory: Path, manifest: dict
) -> None:
    """Adds the accuracy of the peer and of each format to the manifest.

    "milliseconds" of a format is the time of one call on this machine, with one image
    or, where the file takes a fixed number of them, with that many; "measured_with"
    says what machine it is.

    Args:
      peer: the network, as it was trained.
      dataset: the data set with whose test images all are measured.
      directory: of the version, with its files.
      manifest: see `writers.write_formats`.
    """
    formats = manifest["formats"]
    networks = [peer_network(peer, dataset.info.image_shape)]
    for name in formats:
        networks += load_classifier(directory / FORMATS[name].path).networks
    measured_on = f"{dataset.info.name} test"
    own, *others = compare_networks(networks, dataset)
    # Of itself, it differs in nothing.
    del own["agreement"], own["probability_difference"]
    manifest["checkpoint"] = own | {"measured_on": measured_on}
    manifest["measured_with"] = f"{platform.machine()}, {os.cpu_count()} processors"
    for name, network, measured in zip(formats, networks[1:], others, strict=True):
        images = np.zeros(
            (formats[name]["batch_size"] or 1, *dataset.info.image_shape), np.uint8
        )
        formats[name] |= measured | {
            "measured_on": measured_on,
            "milliseconds": _latency(network, images),
        }


def _latency(network: ClassifierNetwork, images: np.ndarray) -> float:
    """Returns the median time of a call in milliseconds."""
    took = []
    for _ in range(1 + _TIMED_CALLS):
        start = time.perf_counter()
        network.logits(images)
        took.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(took[1:]), 3)


def drop_inaccurate_formats(
    manifest: dict, directory: Path, max_accuracy_drop: float
) -> None:
    """Removes the quantized formats that lose too much accuracy.

    Args:
      manifest: with the accuracies of `measure_formats`.
      directory: of the version, with its files.
      max_accuracy_drop: see `exporter.export`.

    Raises:
      UserError: none is left.
    """
    formats = manifest["formats"]
    accuracy = manifest["checkpoint"]["accuracy"]
    reasons = {}
    for name, entry in formats.items():
        drop = accuracy - entry["accuracy"]
        # Fractions of whole images: 0.975 - 0.965 is a little more than 0.01.
        if FORMATS[name].quantization != "none" and drop > max_accuracy_drop + 1e-9:
            reasons[name] = (
                f"{name} loses {100 * drop:.2f} points of the checkpoint's accuracy "
                f"({entry['accuracy']:.4f} against {accuracy:.4f}), more than "
                f"--max_accuracy_drop={max_accuracy_drop:g} allows"
            )
    if len(reasons) == len(formats):
        raise UserError(
            f"nothing was exported: {'; '.join(reasons.values())}. Allow more, give "
            "more --calibration_examples, or another of --formats."
        )
    for name, reason in reasons.items():
        say(f"{reason}: it was left out.")
        for path in formats[name]["files"]:
            (directory / path).unlink()
            del manifest["files"][path]
        kept = ("accuracy", "examples", "measured_on", "agreement")
        kept += ("probability_difference",)
        formats[name] = {
            "refused": True,
            "reason": reason,
            **{key: formats[name][key] for key in kept},
        }
