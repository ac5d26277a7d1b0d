"""The manifest of an export: complete, true, and without paths of the run."""

import hashlib
import json
from pathlib import Path

import pytest
import tensorflow as tf

from afd_tf.artifacts import manifest as manifest_lib
from afd_tf.data import DatasetInfo
from tests import exports


def test_manifest_describes_every_file(exported, digits):
    peer, _, directory = exported
    manifest = json.loads((directory / "manifest.json").read_text())
    files = {
        path.relative_to(directory).as_posix(): path
        for path in directory.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert manifest["files"].keys() == files.keys()
    for name, path in files.items():
        content = path.read_bytes()
        assert manifest["files"][name] == {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    assert manifest["formats"]["tflite"]["bytes"] == len(
        files["model.tflite"].read_bytes()
    )
    assert manifest["formats"]["saved_model"]["bytes"] == sum(
        path.stat().st_size
        for name, path in files.items()
        if name not in ("model.tflite", "labels.txt", "README.md")
    )
    listed = [each["files"] for each in manifest["formats"].values()]
    assert sorted(sum(listed, ["labels.txt", "README.md"])) == sorted(files)
    assert manifest["name"] == "resnet8"
    assert manifest["method"] == "independent"
    assert manifest["classes"] == 10
    assert manifest["parameters"] == peer.parameters == 77_754
    # By hand: 3x3 convolutions at 8x8, 4x4 and 2x2, two 1x1 shortcuts, the classifier.
    assert manifest["multiply_adds"] == (
        64 * 9 * (1 * 16 + 2 * 16 * 16)
        + 16 * (9 * (16 * 32 + 32 * 32) + 16 * 32)
        + 4 * (9 * (32 * 64 + 64 * 64) + 32 * 64)
        + 64 * 10
    )
    assert manifest["flags"] == exports.RUN_FLAGS
    assert manifest["input"]["shape"] == [None, 8, 8, 1]
    assert manifest["normalization"]["mean"] == list(digits.info.mean)
    assert DatasetInfo.from_json(manifest["dataset"]) == digits.info
    assert manifest["versions"]["tensorflow"] == tf.__version__


def test_no_file_tells_where_it_was_made(exported):
    _, _, directory = exported
    here = str(Path(__file__).parents[2]).encode()
    for path in directory.rglob("*"):
        if path.is_file():
            assert here not in path.read_bytes(), path


def test_manifest_names_no_place_of_the_run(digits, tmp_path):
    places = {"data_dir", "cache_dir", "run_dir", "export_dir"}
    run_flags = {**exports.RUN_FLAGS, **dict.fromkeys(places, "/home/me")}
    peer = exports.random_peer("resnet8", digits.info)
    _, directory = exports.export(
        peer,
        exports.OneImage(digits.info),
        tmp_path,
        formats=["tflite"],
        run_flags={**run_flags, "teacher": "/home/me/teacher"},
    )
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["flags"] == {**exports.RUN_FLAGS, "teacher": "/home/me/teacher"}


def test_manifest_of_an_earlier_version_is_read(exported, tmp_path):
    """It had operational flags, and counted "pictures_per_class"."""
    _, _, directory = exported
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["flags"] |= {"strategy": "auto", "save_minutes": "10.0"}
    manifest["formats"]["tflite"]["calibration"] = {"pictures_per_class": [1, 2]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert manifest_lib.read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "it is missing"),
        ("{}", "'dataset'"),
        ("<html>", "Expecting value"),
        ('{"dataset": 3}', "not subscriptable"),
    ],
)
def test_foreign_manifests_are_refused(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(manifest_lib.ManifestError, match=reason) as error:
        manifest_lib.read_manifest(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_manifest_without_files_is_refused(exported, tmp_path):
    manifest = json.loads((exported[2] / "manifest.json").read_text())
    del manifest["files"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(manifest_lib.ManifestError, match="it lacks entries"):
        manifest_lib.read_manifest(tmp_path)
