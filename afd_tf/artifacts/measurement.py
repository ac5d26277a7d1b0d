"""The accuracy of an exported peer's files, and those that lose too much of it."""

from pathlib import Path

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.evaluation import compare_networks
from afd_tf.artifacts.manifest import FORMATS
from afd_tf.artifacts.peer_network import peer_network
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.data import Dataset
from afd_tf.models import Peer


def measure_formats(
    peer: Peer, dataset: Dataset, directory: Path, manifest: dict
) -> None:
    """Adds the accuracy of the peer and of each format to the manifest.

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
    for name, measured in zip(formats, others, strict=True):
        formats[name] |= measured | {"measured_on": measured_on}


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
