"""The formats of an artifact, and the manifest.json beside it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

import afd_tf
from afd_tf.base.errors import UserError
from afd_tf.base.run_flags import operational_names
from afd_tf.data import DatasetInfo
from afd_tf.models import Peer
from afd_tf.models.cost import multiply_adds
from afd_tf.training.run_directory import commit

MANIFEST = "manifest.json"
LABELS = "labels.txt"

# The signature that every artifact has, and two more of a SavedModel.
SIGNATURE = "serving_default"
ENCODED = "encoded"
FEATURES = "features"


class Format(NamedTuple):
    """A format in which a peer can be exported.

    Attributes:
      path: the file, or "." for the directory itself, relative to the directory of
        the version; `load_classifier` reads it.
      batch_size: images per call; None is any number.
      quantization: a key of `tflite.QUANTIZATIONS`.
    """

    path: str
    batch_size: int | None = 1
    quantization: str = "none"


FORMATS = {
    "saved_model": Format(".", batch_size=None),
    "tflite": Format("model.tflite"),
    "tflite_fp16": Format("model_fp16.tflite", quantization="float16"),
    "tflite_dynamic": Format("model_dynamic.tflite", quantization="dynamic"),
    "tflite_int8": Format("model_int8.tflite", quantization="int8"),
}


class ManifestError(UserError):
    """A directory has no manifest that this project wrote."""


def initial_manifest(
    peer: Peer, info: DatasetInfo, run_flags: Mapping[str, str]
) -> dict:
    """Returns the part of a manifest that is known before anything is written.

    The flags that say where and how the run was carried out are left out: paths on
    the machine of the run do not concern those who get the artifact.

    Args:
      peer: a built peer.
      info: the data set that it was trained on.
      run_flags: the flags of its run, as text by name.
    """
    left_out = operational_names()
    return {
        "name": peer.name,
        "method": run_flags.get("method"),
        "dataset": info.to_json(),
        "classes": info.num_classes,
        "input": {
            "name": "image",
            "dtype": "uint8",
            "shape": [None, *info.image_shape],
            "range": [0, 255],
        },
        "preprocessing": "image takes raw pixels, 0 to 255, of the shape above: the "
        "normalization, (pixels - mean) / sqrt(variance) per channel, is inside. "
        "image_bytes takes JPEG or PNG files of any size: the largest centre of the "
        "shape's ratio is cut out and resized, bilinear and antialiased, inside.",
        "normalization": {"mean": list(info.mean), "variance": list(info.variance)},
        "labels": LABELS,
        "parameters": peer.parameters,
        "multiply_adds": multiply_adds(peer, info.image_shape),
        "versions": {
            "afd_tf": afd_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "commit": commit(),
        "flags": {
            name: text for name, text in run_flags.items() if name not in left_out
        },
    }


def files_in(directory: Path) -> list[Path]:
    """Returns all files in a directory and in those below it, sorted."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def file_entries(directory: Path) -> dict[str, dict]:
    """Returns {"bytes", "sha256"} of each file, by its path within the directory."""
    return {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files_in(directory)
    }


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Writes manifest.json.

    Raises:
      OSError: no space or no permission.
    """
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (directory / MANIFEST).write_text(text, "utf-8")


def read_manifest(directory: Path) -> dict:
    """Reads the manifest.json of a version that `export` wrote.

    Raises:
      ManifestError: it is missing, cannot be read, or lacks entries.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        DatasetInfo.from_json(manifest["dataset"])
        if manifest.keys() >= {"name", "flags", "formats", "files"}:
            return manifest
        reason = "it lacks entries"
    except FileNotFoundError:
        reason = "it is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise ManifestError(
        f"{path} is not what `python -m afd_tf.export` writes beside an artifact: "
        f"{reason}."
    )


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error


def check_file(path: Path, expected: Mapping[str, Any]) -> None:
    """Compares a file with its entry in the manifest.

    Args:
      path: the file.
      expected: its entry, with "sha256".

    Raises:
      UserError: the checksum differs, or the file cannot be read.
    """
    if hashlib.sha256(read_bytes(path)).hexdigest() != expected["sha256"]:
        raise UserError(
            f"{path} is not the file that {MANIFEST} describes: it is damaged or was "
            "replaced."
        )


def check_labels(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses the labels of another model beside an artifact.

    A missing file is no error: the class names are also in the artifact itself.

    Raises:
      UserError: labels.txt is there, and is not the one that was exported.
    """
    if LABELS in manifest["files"] and (directory / LABELS).exists():
        check_file(directory / LABELS, manifest["files"][LABELS])
