"""The formats of an artifact, and the manifest.json beside it."""

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from afd_tf.base.console import one_line
from afd_tf.base.errors import UserError, unknown_name
from afd_tf.base.json_text import json_text
from afd_tf.data.dataset_info import DatasetInfo

MANIFEST = "manifest.json"
LABELS = "labels.txt"

# The first bytes of what Git LFS leaves in place of a file that was not fetched.
GIT_LFS = b"version https://git-lfs.github.com/"

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
      packages: the packages that writing and measuring it needs besides TensorFlow, by
        the module that is imported.
      kind: of the file, which says what writes it.
      extra: the extra of this project that brings the packages, if one does.
    """

    path: str
    batch_size: int | None = 1
    quantization: str = "none"
    packages: Mapping[str, str] = MappingProxyType({"ai_edge_litert": "ai-edge-litert"})
    kind: str = "tflite"
    extra: str | None = None

    @property
    def needs_tensorflow(self) -> bool:
        """Whether TensorFlow runs it."""
        return self.kind in ("saved_model", "keras")


FORMATS = {
    "saved_model": Format(".", batch_size=None, packages={}, kind="saved_model"),
    "tflite": Format("model.tflite"),
    "tflite_fp16": Format("model_fp16.tflite", quantization="float16"),
    "tflite_dynamic": Format("model_dynamic.tflite", quantization="dynamic"),
    "tflite_int8": Format("model_int8.tflite", quantization="int8"),
    "keras": Format("model.keras", batch_size=None, packages={}, kind="keras"),
    "onnx": Format(
        "model.onnx",
        batch_size=None,
        packages={"tf2onnx": "tf2onnx", "onnxruntime": "onnxruntime"},
        kind="onnx",
        extra="onnx",
    ),
    "openvino": Format(
        "model.xml",
        batch_size=None,
        packages={"openvino": "openvino"},
        kind="openvino",
        extra="openvino",
    ),
    "openvino_int8": Format(
        "model_int8.xml",
        batch_size=None,
        quantization="int8",
        packages={"openvino": "openvino", "nncf": "nncf"},
        kind="openvino",
        extra="openvino",
    ),
}


class ManifestError(UserError):
    """A directory has no manifest that this project wrote."""


def check_formats(formats: Sequence[str]) -> None:
    """Refuses names that are not in `FORMATS`.

    Raises:
      UserError: there is one, or there are none at all.
    """
    if not formats:
        raise UserError(f"--formats is empty: give some of {', '.join(FORMATS)}.")
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)


def check_packages(formats: Sequence[str]) -> None:
    """Refuses formats that need a package which is not installed.

    Args:
      formats: keys of `FORMATS`.

    Raises:
      UserError: there is one.
    """
    for name in formats:
        extra = FORMATS[name].extra
        for module, package in FORMATS[name].packages.items():
            if importlib.util.find_spec(module) is None:
                wanted = f"-r requirements-{extra}.txt" if extra else package
                also = f" (the extra {extra} of afd_tf)" if extra else ""
                raise UserError(
                    f"--formats={name} needs the package {package}, which is not "
                    f"installed: `pip install {wanted}`{also}, or leave {name} out."
                )


def dataset_title(name: str) -> str:
    """Returns the name of a data set, without the path of a folder or table.

    Args:
      name: see `DatasetInfo`.
    """
    _, separator, path = name.partition(":")
    return Path(path).name if separator else name


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
    (directory / MANIFEST).write_text(json_text(manifest, indent=1) + "\n", "utf-8")


def labels_text(class_names: Sequence[str]) -> str:
    r"""Returns the content of labels.txt: as many lines as there are classes.

    Line breaks and the like within a name are escaped, e.g. as \n; the manifest has the
    names as they are.
    """
    return "".join(f"{one_line(name)}\n" for name in class_names)


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
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        if content.startswith(GIT_LFS):
            raise UserError(
                f"{path} is a pointer of Git LFS and not the file itself: run "
                "`git lfs pull`."
            )
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
