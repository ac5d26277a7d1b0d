"""Messages say what was found and what to do."""

import re
import zipfile

import pytest

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.diagnosis import found_at
from afd_tf.artifacts.manifest import check_file
from afd_tf.artifacts.teacher import load_teacher
from afd_tf.base.errors import UserError
from tests import tiny

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


def write_zip(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "")


@pytest.fixture
def folder(tmp_path):
    for name, content in (
        ("empty.tflite", b""),
        ("pointer.tflite", LFS),
        ("page.tflite", b"\n<!DOCTYPE html><html>Not found"),
        ("other.tflite", b"\x1c\0\0\0TFL3" + bytes(100)),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100)),
        ("model.onnx", b"\x08\x08" + bytes(100)),
        ("notes.txt", b"no network"),
    ):
        (tmp_path / name).write_bytes(content)
    write_zip(tmp_path / "model.keras", "metadata.json", "model.weights.h5")
    write_zip(tmp_path / "model.pt", "archive/data.pkl")
    write_zip(tmp_path / "some.zip", "a/model.tflite")
    for name in ("versions/1", "versions/10", "versions/9", "run/checkpoints", "none"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "flags.cfg").write_text("--peers=resnet8\n")
    (tmp_path / "tflite").mkdir()
    (tmp_path / "tflite" / "a.tflite").touch()
    (tmp_path / "dead").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("empty.tflite", "It is empty: export or copy it again"),
        ("pointer.tflite", "`git lfs pull`"),
        ("page.tflite", "a web page"),
        ("other.tflite", "TFLite model without class names"),
        ("model.h5", "HDF5 file"),
        ("model.onnx", "ONNX model of another program or cut off, which is not read"),
        ("model.keras", "Keras model of another program or cut off, which is not read"),
        ("model.pt", "PyTorch file, which is not read"),
        ("some.zip", "zip archive"),
        ("notes.txt", "Give a run directory or what"),
        ("run/flags.cfg", "one file of a whole: give its directory, .*run"),
        ("versions", "It holds 1, 9, 10: give one of them, e.g. .*versions/10"),
        ("tflite", "It holds a.tflite: give one of them"),
        ("run/checkpoints", "It is a part of .*run: give that"),
        ("none", "It is empty"),
        ("dead", "It is a link to nowhere, which is not there"),
        ("model.ker", "Correct the path. Did you mean 'model.keras'"),
        ("nowhere/at/all", "There is no folder .*nowhere/at either"),
        ("notes.txt/below", "It cannot be read: Not a directory"),
    ],
)
def test_what_is_found_is_said_in_one_line(name, found, folder):
    for load in (load_classifier, lambda path: load_teacher(path, tiny.info())):
        with pytest.raises(UserError) as error:
            load(folder / name)
        message = str(error.value)
        assert re.search(found, message), message
        assert "\n" not in message
        assert str(folder / name) in message


def test_runs_in_a_folder_are_listed(folder):
    # Its only network is the run.
    assert found_at(folder) == f"It holds run: give one of them, e.g. {folder / 'run'}."
    for number in range(5):
        (folder / f"run_{number}").mkdir()
        (folder / f"run_{number}" / "flags.cfg").touch()
    assert "It holds run_2, run_3, run_4 and 3 more: give one" in found_at(folder)


def test_what_cannot_be_read(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", refuse)
    assert found_at(folder) == "It cannot be read: Permission denied."


def test_a_pointer_within_a_version_is_no_damage(folder):
    with pytest.raises(UserError, match="git lfs pull"):
        check_file(folder / "pointer.tflite", {"sha256": "0" * 64})
