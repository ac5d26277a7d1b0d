"""The writing of a peer in each format that was asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from afd_tf.artifacts import (
    keras_file,
    onnx_file,
    openvino_file,
    saved_model,
    tflite,
)
from afd_tf.artifacts.calibration import Calibration
from afd_tf.artifacts.manifest import (
    FORMATS,
    LABELS,
    file_entries,
    files_in,
    labels_text,
    write_manifest,
)
from afd_tf.data import DatasetInfo
from afd_tf.models import Peer

_WRITERS = {"keras": keras_file.write, "onnx": onnx_file.write}


class Choices(NamedTuple):
    """Which formats are written, and how.

    Attributes:
      formats: keys of `manifest.FORMATS`.
      top_k: number of classes that a SavedModel names.
      calibration: for the formats that need it; else None.
      tflite_batch_size: images that a .tflite file takes at a time.
      tflite_logits: whether .tflite files give logits beside probabilities.
    """

    formats: Sequence[str]
    top_k: int
    calibration: Calibration | None
    tflite_batch_size: int
    tflite_logits: bool


def is_calibrated(format_name: str) -> bool:
    """Returns whether a format is made with training images."""
    return FORMATS[format_name].quantization in tflite.CALIBRATED_QUANTIZATIONS


def write_formats(
    peer: Peer, info: DatasetInfo, directory: Path, manifest: dict, choices: Choices
) -> None:
    """Writes the labels, every format and the manifest, to which it adds them.

    Args:
      peer: the network.
      info: the data set that it was trained on.
      directory: of the version, empty.
      manifest: see `origin.initial_manifest`.
      choices: which formats, and how.

    Raises:
      UserError: a format cannot be written.
      OSError: no space or no permission.
    """
    # The run's flags stay out of single files: a phone has no use for them.
    description = {k: v for k, v in manifest.items() if k != "flags"}
    (directory / LABELS).write_text(labels_text(info.class_names), "utf-8")
    written = set(files_in(directory))
    manifest["formats"] = {}
    for name in choices.formats:
        path, kind = FORMATS[name].path, FORMATS[name].kind
        entry = {"path": path, "batch_size": FORMATS[name].batch_size}
        own = {**description, "format": name}
        calibration = choices.calibration if is_calibrated(name) else None
        images = calibration and calibration.images
        if kind == "saved_model":
            entry |= saved_model.write(peer, info, directory, choices.top_k)
        elif kind == "tflite":
            entry["batch_size"] = choices.tflite_batch_size
            entry |= tflite.write(
                peer,
                own,
                directory / path,
                quantization=FORMATS[name].quantization,
                images=images,
                batch_size=choices.tflite_batch_size,
                with_logits=choices.tflite_logits,
            )
        elif kind == "openvino":
            float32 = directory / FORMATS["openvino"].path
            entry |= openvino_file.write(
                peer,
                info,
                own,
                directory / path,
                images=images,
                converted=float32 if float32.is_file() else None,
            )
        else:
            entry |= _WRITERS[kind](peer, info, own, directory / path)
        if calibration:
            entry["calibration"] = calibration.description
        new = [path for path in files_in(directory) if path not in written]
        written.update(new)
        entry["bytes"] = sum(path.stat().st_size for path in new)
        entry["files"] = [path.relative_to(directory).as_posix() for path in new]
        manifest["formats"][name] = entry
    manifest["files"] = file_entries(directory)
    # `load_classifier` needs it to measure them.
    write_manifest(directory, manifest)
