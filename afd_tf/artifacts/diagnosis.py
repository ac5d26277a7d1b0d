"""What is found where a network was expected, and what to do about it."""

import io
import os
import zipfile
from pathlib import Path

from afd_tf.artifacts.manifest import GIT_LFS, LABELS, MANIFEST
from afd_tf.base.errors import nearest

_OF_A_RUN = ("flags.cfg", "dataset.json", "environment.json", "summary.json")
_OF_A_VERSION = ("saved_model.pb", "fingerprint.pb", MANIFEST, LABELS)
_GIVE = "give a run directory or what `python -m afd_tf.export` wrote"
# Names that a message lists, and bytes of a file that are looked at.
_SHOWN = 3
_HEAD = 1024


def found_at(path: Path) -> str:
    """Returns what is at a path that gives no network, and what to do: sentences.

    Args:
      path: of a file, of a directory, or of nothing.
    """
    try:
        if os.path.isdir(path):
            return _found_in_directory(path)
        with open(path, "rb") as file:
            return _found_in_file(path, file)
    except FileNotFoundError:
        return _found_nothing(path)
    except OSError as error:
        return f"It cannot be read: {error.strerror}."


def _found_nothing(path: Path) -> str:
    if path.is_symlink():
        return f"It is a link to {os.readlink(path)}, which is not there."
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either: correct the path."
    return f"Correct the path.{nearest(path.name, os.listdir(path.parent))}"


def _found_in_directory(path: Path) -> str:
    names = sorted(os.listdir(path))
    versions = sorted((name for name in names if name.isdecimal()), key=int)
    networks = [name for name in names if _is_network(path / name)]
    found = versions or networks or [name for name in names if name.endswith(".tflite")]
    if found:
        more = len(found) - _SHOWN
        listed = ", ".join(found[-_SHOWN:]) + (f" and {more} more" if more > 0 else "")
        return f"It holds {listed}: give one of them, e.g. {path / found[-1]}."
    for above in path.absolute().parents[:2]:
        if _is_network(above):
            return f"It is a part of {above}: give that."
    return f"It holds {', '.join(names[:_SHOWN])}." if names else "It is empty."


def _is_network(directory: Path) -> bool:
    return any(
        os.path.isfile(directory / name) for name in ("flags.cfg", "saved_model.pb")
    )


def _found_in_file(path: Path, file: io.BufferedIOBase) -> str:
    head = file.read(_HEAD)
    start = head.lstrip().lower()
    names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    if not head:
        return "It is empty: export or copy it again."
    if head.startswith(GIT_LFS):
        return "It is a pointer of Git LFS and not the file itself: run `git lfs pull`."
    if start.startswith((b"<!doctype html", b"<html")):
        return "It is a web page, perhaps of an error: download the file itself."
    if path.name in (*_OF_A_RUN, *_OF_A_VERSION):
        return f"It is one file of a whole: give its directory, {path.parent}."
    if MANIFEST in names:
        return f"It is a file of afd_tf, damaged or not of use here: {_GIVE}."
    if head[4:8] == b"TFL3":
        return (
            "It is a TFLite model without class names and description, of another "
            "program or cut off: export or copy it again."
        )
    for kind, is_kind in (
        ("a Keras model of another program or cut off", "model.weights.h5" in names),
        ("a PyTorch file", any(name.endswith("data.pkl") for name in names)),
        ("a zip archive", head.startswith(b"PK")),
        ("an HDF5 file, perhaps of Keras", head.startswith(b"\x89HDF")),
        (
            "an ONNX model of another program or cut off",
            path.suffix.lower() == ".onnx",
        ),
    ):
        if is_kind:
            return f"It is {kind}, which is not read here: {_GIVE}."
    return f"{_GIVE[0].upper()}{_GIVE[1:]}."
