"""Classifiers of every kind of file, and files that are refused."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.manifest import FORMATS
from afd_tf.base.errors import UserError
from tests import exports
from tests.exports import (
    assert_same_logits,
    export,
    logits_of,
    random_images,
    random_peer,
)

TFLITE = [name for name, each in FORMATS.items() if each.kind == "tflite"]
OPENVINO = ("openvino", "openvino_int8")


def test_moved_tflite_still_knows_itself(exported, digits, tmp_path):
    _, _, directory = exported
    shutil.copy(directory / "model.tflite", tmp_path / "phone.tflite")
    # As web applications have one.
    (tmp_path / "manifest.json").write_text('{"name": "app", "start_url": "/"}')
    classifier = load_classifier(tmp_path / "phone.tflite")
    assert classifier.info == digits.info
    assert classifier.run_flags == {}
    assert load_classifier(directory / "model.tflite").run_flags == exports.RUN_FLAGS


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("break_it", [damage, truncate, os.unlink])
@pytest.mark.parametrize(
    "name",
    [
        "model.tflite",
        "model_fp16.tflite",
        "model_dynamic.tflite",
        "model_int8.tflite",
        "model.keras",
        "model.onnx",
        "model.xml",
        "saved_model.pb",
        "variables/variables.index",
    ],
)
def test_damaged_files_are_refused_in_one_line(deployed, tmp_path, name, break_it):
    directory = tmp_path / "1"
    shutil.copytree(deployed[2], directory)
    break_it(directory / name)
    path = directory / name if name.startswith("model") else directory
    if name == "saved_model.pb" and break_it is os.unlink:
        # What is left is an export without a SavedModel.
        assert load_classifier(directory).format == "tflite"
        return
    with pytest.raises(UserError) as caught:
        load_classifier(path)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize("name", [*TFLITE, "keras", "onnx", *OPENVINO])
def test_damage_is_seen_without_the_manifest(deployed, tmp_path, name):
    source = deployed[2] / FORMATS[name].path
    moved = weights = tmp_path / f"moved{source.suffix}"
    shutil.copy(source, moved)
    if name in OPENVINO:
        weights = moved.with_suffix(".bin")
        shutil.copy(source.with_suffix(".bin"), weights)
    classifier = load_classifier(moved)
    assert classifier.format == name
    assert classifier.run_flags == {}
    content = bytearray(weights.read_bytes())
    content[len(content) // 3] ^= 255
    weights.write_bytes(content)
    reason = "another file" if name in OPENVINO else "checksum|CRC"
    with pytest.raises(UserError, match=rf"moved\.\w+ is damaged.*({reason})") as error:
        load_classifier(moved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["labels.txt", "manifest.json"])
@pytest.mark.parametrize("path", [".", "model.tflite", "model_int8.tflite"])
def test_files_of_another_model_are_refused_in_one_line(
    deployed, exported, tmp_path, name, path
):
    directory = tmp_path / "1"
    shutil.copytree(deployed[2], directory)
    shutil.copy(exported[2] / name, directory / name)
    if name == "labels.txt":
        (directory / name).write_text("cat\ndog\n")
    elif path == "model_int8.tflite":
        # The other manifest knows none of that name: it is taken for one that moved.
        assert load_classifier(directory / path).run_flags == {}
        return
    with pytest.raises(UserError, match=r"is not the file that manifest.json") as error:
        load_classifier(directory / path)
    assert "\n" not in str(error.value)


def test_foreign_files_are_refused_in_one_line(exported, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.tflite").touch()
    (tmp_path / "text.tflite").write_text("no model\n" * 100)
    truncated = (exported[2] / "model.tflite").read_bytes()[:-200_000]
    (tmp_path / "truncated.tflite").write_bytes(truncated)
    function = tf.function(lambda x: {"y": x + 1.0})
    concrete = function.get_concrete_function(tf.TensorSpec([1, 4]))
    tf.saved_model.save(
        tf.Module(), tmp_path / "foreign", signatures={"serving_default": concrete}
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    (tmp_path / "foreign.tflite").write_bytes(converter.convert())
    expected = {
        "missing": "there is no artifact",
        "empty": "is no artifact",
        "empty.tflite": "damaged, or is not a .tflite file",
        "text.tflite": "damaged, or is not a .tflite file",
        "truncated.tflite": "damaged, or is not a .tflite file",
        "foreign.tflite": "damaged, or is not a .tflite file",
        "foreign": "manifest.json",
    }
    for name, message in expected.items():
        with pytest.raises(UserError) as caught:
            load_classifier(tmp_path / name)
        assert message in str(caught.value), name
        assert str(tmp_path / name) in str(caught.value), name
        assert "\n" not in str(caught.value), name


def test_run_directory_gives_all_peers(run_dir):
    directory, peers = run_dir
    classifier = load_classifier(directory)
    assert classifier.networks[classifier.chosen].name == "wrn_10_1"
    assert classifier.run_flags["method"] == "independent"
    images = random_images((8, 8, 1), 3)
    for network, peer in zip(classifier.networks, peers, strict=True):
        assert_same_logits(network.logits(images), logits_of(peer, images))
    assert_same_logits(classifier.logits(images), logits_of(peers[1], images))
    for choice, number in (("0", 0), ("1", 1), ("resnet8", 0), ("wrn_10_1", 1)):
        assert load_classifier(directory, peer=choice).chosen == number


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("2", "there are 2, counted from 0"),
        ("-1", "unknown peer '-1'"),
        ("resnet9", "Did you mean 'resnet8'"),
    ],
)
def test_unknown_peers_are_refused(run_dir, choice, message):
    with pytest.raises(UserError, match=message):
        load_classifier(run_dir[0], peer=choice)


def test_peer_of_an_artifact_must_be_the_one_it_holds(exported):
    assert load_classifier(exported[2], peer="resnet8").chosen == 0
    with pytest.raises(UserError, match="unknown peer 'wrn_10_1'"):
        load_classifier(exported[2], peer="wrn_10_1")


def test_export_directory_without_a_saved_model(digits, tmp_path):
    peer = random_peer("resnet8", digits.info)
    _, directory = export(peer, exports.OneImage(digits.info), tmp_path, ["tflite"])
    classifier = load_classifier(directory)
    assert classifier.format == "tflite"
    assert classifier.run_flags == exports.RUN_FLAGS


@pytest.mark.parametrize("kind", ["run", "saved_model", "tflite", "tflite_int8"])
def test_predictions_are_probabilities(kind, run_dir, deployed):
    if kind == "run":
        classifier = load_classifier(str(run_dir[0]), 0)
    else:
        classifier = load_classifier(str(deployed[2] / FORMATS[kind].path))
    images = random_images((8, 8, 1), 5)
    probabilities = classifier.predict(images)
    assert probabilities.dtype == np.float32
    powers = np.exp(np.float64(classifier.logits(images)))
    np.testing.assert_allclose(
        probabilities, powers / powers.sum(axis=1, keepdims=True), atol=1e-7
    )
    assert classifier.predict(images[:0]).shape == (0, 10)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros([2, 8, 8], np.uint8), r"\[2, 8, 8\] .* takes \[B, 8, 8, 1\]"),
        (np.zeros([8, 8, 1], np.uint8), r"\[8, 8, 1\] .* takes \[B, 8, 8, 1\]"),
        (np.zeros([1, 8, 8, 3], np.uint8), r"\[1, 8, 8, 3\]"),
        (np.zeros([1, 9, 8, 1], np.uint8), r"\[1, 9, 8, 1\]"),
        (np.zeros([1, 1, 8, 8, 1], np.uint8), r"\[1, 1, 8, 8, 1\]"),
        (np.uint8(1), r"shape \[\]"),
        (np.zeros([1, 8, 8, 1], np.float32), "float32 .* takes uint8"),
        (np.zeros([1, 8, 8, 1], np.int64), "int64 .* takes uint8"),
    ],
)
def test_other_images_are_refused(exported, images, message):
    classifier = load_classifier(exported[2] / "model.tflite")
    with pytest.raises(UserError, match=message) as error:
        classifier.predict(images)
    assert "\n" not in str(error.value)
