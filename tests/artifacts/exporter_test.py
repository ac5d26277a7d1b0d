"""Exports: equal to the peer in every format, whole or not there at all."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from afd_tf import models
from afd_tf.artifacts import exporter, measurement, writers
from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.evaluation import compare_networks
from afd_tf.artifacts.manifest import FORMATS
from afd_tf.artifacts.peer_network import peer_network
from afd_tf.artifacts.teacher import load_teacher
from afd_tf.base.errors import UserError
from afd_tf.training.run_directory import run_dir_from_flags
from tests import exports, tiny
from tests.exports import (
    assert_same_logits,
    assert_same_scores,
    export,
    logits_of,
    random_images,
    random_peer,
)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_artifacts_give_the_logits_of_the_peer(exported, batch_size):
    peer, _, directory = exported
    images = random_images((8, 8, 1), batch_size)
    for path in (directory, directory / "model.tflite"):
        assert_same_scores(
            load_classifier(path).logits(images), logits_of(peer, images)
        )


def test_artifacts_agree_with_the_peer_on_every_test_image(exported, digits):
    peer, answer, directory = exported
    saved_model = load_classifier(directory)
    tflite = load_classifier(directory / "model.tflite")
    right = total = 0
    for batch in digits.evaluation_batches("test", batch_size=64).as_numpy_iterator():
        expected = np.argmax(logits_of(peer, batch["image"]), axis=-1)
        for classifier in (saved_model, tflite):
            actual = np.argmax(classifier.logits(batch["image"]), axis=-1)
            np.testing.assert_array_equal(actual, expected)
        right += np.sum((expected == batch["label"]) * batch["weight"])
        total += np.sum(batch["weight"])
    assert total == 360
    for name in exports.BOTH:
        assert answer["formats"][name]["accuracy"] == right / total
        assert answer["formats"][name]["examples"] == 360
        assert answer["formats"][name]["measured_on"] == "digits test"


def test_colour_images_of_any_size(digits, tmp_path):
    info = dataclasses.replace(
        digits.info,
        image_shape=(12, 20, 3),
        class_names=("Katze", "Hündin", "a b"),
        mean=(120.0, 90.5, 30.0),
        variance=(4000.0, 2500.0, 0.0),
    )
    peer = random_peer("wrn_10_1", info)
    _, directory = export(peer, exports.OneImage(info), tmp_path)
    images = random_images((12, 20, 3), 5)
    for name in ("saved_model", "tflite"):
        classifier = load_classifier(directory / FORMATS[name].path)
        assert classifier.format == name
        assert classifier.image_shape == (12, 20, 3)
        assert classifier.class_names == ("Katze", "Hündin", "a b")
        assert_same_scores(classifier.logits(images), logits_of(peer, images))


def test_probabilities_are_the_softmax_of_the_logits(exported):
    _, _, directory = exported
    images = random_images((8, 8, 1), 1)
    loaded = tf.saved_model.load(directory)
    served = loaded.signatures["serving_default"](image=tf.constant(images))
    on_phone = Interpreter(str(directory / "model.tflite")).get_signature_runner(
        "serving_default"
    )(image=images)
    assert set(served) == {"logits", "probabilities", "classes", "scores"}
    assert set(on_phone) == {"probabilities"}
    logits = np.float64(served["logits"])
    powers = np.exp(logits - logits.max())
    for outputs in (served, on_phone):
        np.testing.assert_allclose(
            outputs["probabilities"], powers / powers.sum(), atol=1e-6
        )


def test_saved_model_runs_where_there_is_tensorflow_only(exported, tmp_path):
    peer, _, directory = exported
    images = random_images((8, 8, 1), 3)
    np.save(tmp_path / "images.npy", images)
    program = f"""
import sys
# What Keras imports if it is there.
sys.modules.update(dict.fromkeys(["IPython", "matplotlib", "sklearn"]))
import numpy, tensorflow
loaded = tensorflow.saved_model.load({str(directory)!r})
assert set(loaded.signatures) == {{"serving_default", "encoded", "features"}}
images = tensorflow.constant(numpy.load("images.npy"))
files = tensorflow.stack([tensorflow.io.encode_png(image) for image in images])
for name, inputs in (
    ("serving_default", {{"image": images}}),
    ("features", {{"image": images}}),
    ("encoded", {{"image_bytes": files}}),
):
    outputs = loaded.signatures[name](**inputs)
    numpy.save(name + ".npy", outputs["logits"])
assert not [name for name in sys.modules if name.startswith("afd_tf")]
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    expected = np.load(tmp_path / "serving_default.npy")
    assert_same_logits(expected, logits_of(peer, images))
    for name in ("features", "encoded"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected)


def test_saved_model_holds_each_variable_of_the_peer_once(exported):
    peer, _, directory = exported
    reader = tf.train.load_checkpoint(str(directory / "variables" / "variables"))
    shapes = [
        tuple(shape)
        for name, shape in reader.get_variable_to_shape_map().items()
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    ]
    assert sorted(shapes) == sorted(tuple(v.shape) for v in peer.variables)
    size = (directory / "variables" / "variables.data-00000-of-00001").stat().st_size
    numbers = sum(int(np.prod(shape)) for shape in shapes)
    assert 4 * numbers <= size < 4 * numbers + 8_000


def test_tflite_is_made_of_few_builtin_operators(exported):
    _, answer, directory = exported
    folded = answer["formats"]["tflite"]["batch_normalizations"]
    assert folded == {"all": 9, "folded": 9}
    interpreter = Interpreter(
        str(directory / "model.tflite"),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    operators = [each["op_name"] for each in interpreter._get_ops_details()]
    # The pixels' normalization, 7 convolutions and 2 shortcuts, 3 additions: nothing
    # is left of batch normalization.
    assert operators[:3] == ["CAST", "MUL", "SUB"]
    assert operators[-3:] == ["MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    body = operators[3:-3]
    assert (body.count("CONV_2D"), body.count("ADD"), len(body)) == (9, 3, 12)


def test_tflite_takes_one_raw_image(exported):
    _, _, directory = exported
    classifier = Interpreter(str(directory / "model.tflite")).get_signature_runner(
        "serving_default"
    )
    details = classifier.get_input_details()["image"]
    assert list(details["shape_signature"]) == [1, 8, 8, 1]
    assert details["dtype"] is np.uint8


def test_unknown_operators_are_named(digits, tmp_path):
    class Strange(keras.layers.Layer):
        def call(self, inputs):
            return tf.math.lgamma(inputs) + tf.math.bessel_i0(inputs)

    info = digits.info
    peer = models.Peer(
        num_classes=10,
        mean=info.mean,
        variance=info.variance,
        downsampling=1,
        body={"last": Strange()},
        name="strange",
    )
    peer.build_for(info.image_shape)
    with pytest.raises(UserError, match=r"strange .* no operator for .*BesselI0"):
        export(peer, exports.OneImage(info), tmp_path / "x", formats=["tflite"])
    assert list(tmp_path.iterdir()) == []


def test_labels_are_beside_and_inside(exported):
    _, _, directory = exported
    expected = "".join(f"{digit}\n" for digit in range(10))
    assert (directory / "labels.txt").read_text() == expected
    with zipfile.ZipFile(directory / "model.tflite") as archive:
        assert archive.read("labels.txt").decode() == expected


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_failed_export_leaves_nothing(digits, tmp_path, monkeypatch, error, existed):
    def write_half(peer, description, path, **settings):
        path.write_text("half")
        raise error

    monkeypatch.setattr(writers.tflite, "write", write_half)
    export_dir = tmp_path / "a" / "b"
    if existed:
        export_dir.mkdir(parents=True)
    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        export(random_peer("small", digits.info), digits, export_dir, ["tflite"])
    if expected is UserError:
        assert "No space left on device" in str(caught.value)
    left = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert left == ([Path("a"), Path("a/b")] if existed else [])


def test_export_into_a_file_is_refused(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        export(random_peer("small", digits.info), digits, tmp_path / "file" / "x")


def test_unknown_formats_are_refused(digits, tmp_path):
    peer = random_peer("small", digits.info)
    with pytest.raises(UserError, match=r"'tflit'.*Did you mean 'tflite'"):
        export(peer, digits, tmp_path, ["tflit"])
    with pytest.raises(UserError, match="empty"):
        export(peer, digits, tmp_path, [])
    with (
        flagsaver.flagsaver(),
        pytest.raises(flags.IllegalFlagValueError, match="Did you mean 'tflite'"),
    ):
        flags.FLAGS(["test", "--formats=saved_model,tflit"])


def test_export_from_flags_takes_the_smallest_peer(run_dir, tmp_path, parsed_flags):
    directory, peers = run_dir
    assert not exporter.export_wanted()
    parsed_flags.export_dir = str(tmp_path / "x")
    assert exporter.export_wanted()
    parsed_flags.formats = ["saved_model"]
    answer = exporter.export_from_flags(directory)
    assert (answer["name"], answer["directory"]) == ("wrn_10_1", f"{tmp_path}/x/1")
    parsed_flags.peer = "0"
    assert exporter.export_from_flags(directory)["directory"] == f"{tmp_path}/x/2"
    images = random_images((8, 8, 1), 2)
    for version, peer in (("1", peers[1]), ("2", peers[0])):
        classifier = load_classifier(tmp_path / "x" / version)
        assert_same_logits(classifier.logits(images), logits_of(peer, images))


def test_default_export_directory(run_dir, tmp_path, parsed_flags, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parsed_flags.formats = ["saved_model"]
    answer = exporter.export_from_flags(run_dir[0])
    assert answer["directory"] == "savedmodels/wrn_10_1_digits/1"


def test_artifact_of_a_run_in_mixed_precision(run_dir, tmp_path, parsed_flags):
    directory, peers = run_dir
    parsed_flags.export_dir = str(tmp_path / "x")
    with tiny.precision("mixed_bfloat16"):
        answer = exporter.export_from_flags(directory)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    images = random_images((8, 8, 1), 2)
    for name in exports.BOTH:
        path = Path(answer["directory"]) / FORMATS[name].path
        logits = load_classifier(path).logits(images)
        assert_same_scores(logits, logits_of(peers[1], images))


# Of a class's probability.
LARGEST_DIFFERENCE = {
    "saved_model": 1e-5,
    "tflite": 1e-5,
    "tflite_fp16": 2e-3,
    "tflite_dynamic": 3e-2,
    "tflite_int8": 8e-2,
    "keras": 1e-5,
    "onnx": 1e-5,
    "openvino": 1e-5,
    "openvino_int8": 1.5e-1,
}


def test_every_format_agrees_with_the_checkpoint(deployed, digits):
    peer, answer, directory = deployed
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["formats"] == answer["formats"]
    assert manifest["checkpoint"]["accuracy"] > 0.9
    for name, entry in answer["formats"].items():
        classifier = load_classifier(directory / entry["path"])
        assert classifier.format == name
        networks = [peer_network(peer, (8, 8, 1)), *classifier.networks]
        own, measured = compare_networks(networks, digits)
        assert own["accuracy"] == manifest["checkpoint"]["accuracy"]
        assert {key: entry[key] for key in measured} == measured
        assert entry["measured_on"] == "digits test"
        assert measured["probability_difference"] < LARGEST_DIFFERENCE[name], name
        assert measured["agreement"] >= 0.99
        assert measured["accuracy"] >= own["accuracy"] - 0.01
    small = ("tflite", "tflite_fp16", "tflite_dynamic")
    sizes = [answer["formats"][name]["bytes"] for name in small]
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * 1.7 * sizes[2]


def measured_as(monkeypatch, wrong):
    """Lets the peer be right about 300 of 360 images, each format about fewer."""
    original = measurement.compare_networks

    def compare_as(networks, dataset):
        measured = original(networks, dataset)
        for each, more in zip(measured, [0, *wrong], strict=True):
            each["accuracy"] = (300 - more) / 360
        return measured

    monkeypatch.setattr(measurement, "compare_networks", compare_as)


def test_format_that_loses_too_much_is_refused(digits, tmp_path, monkeypatch, capsys):
    # A point of 360 images is 3.6 of them.
    measured_as(monkeypatch, wrong=[90, 3, 4])
    peer = random_peer("small", digits.info)
    answer, directory = export(
        peer,
        exports.SomeImages(digits.info),
        tmp_path,
        formats=["tflite", "tflite_fp16", "tflite_int8"],
    )
    # A float format is never refused: its accuracy is in the manifest.
    assert answer["formats"]["tflite"]["accuracy"] == 210 / 360
    assert "refused" not in answer["formats"]["tflite_fp16"]
    entry = answer["formats"]["tflite_int8"]
    assert entry["refused"] is True
    assert entry["accuracy"] == 296 / 360
    assert "1.11 points" in entry["reason"]
    assert "path" not in entry
    error = capsys.readouterr().err.splitlines()[-1]
    assert "tflite_int8 loses 1.11 points" in error
    assert "0.8222 against 0.8333" in error
    assert "model_int8.tflite" not in answer["files"]
    left = sorted(path.name for path in directory.iterdir())
    assert left == [
        *("README.md", "labels.txt", "manifest.json"),
        *("model.tflite", "model_fp16.tflite"),
    ]
    assert load_classifier(directory).format == "tflite"
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["formats"] == answer["formats"]


def test_nothing_but_a_refused_format_is_an_error(digits, tmp_path, monkeypatch):
    measured_as(monkeypatch, wrong=[36])
    peer = random_peer("small", digits.info)
    dataset = exports.SomeImages(digits.info)
    export_dir = tmp_path / "x"
    with pytest.raises(UserError, match=r"nothing .*int8 loses 10.00 points") as error:
        export(peer, dataset, export_dir, ["tflite_int8"])
    assert "\n" not in str(error.value)
    assert not export_dir.exists()
    export(peer, dataset, export_dir, ["tflite_int8"], max_accuracy_drop=0.1)
    assert (export_dir / "1" / "model_int8.tflite").exists()


def test_export_needs_a_peer_a_data_set_and_a_directory(digits, tmp_path):
    """As the Python API calls it: no command line was parsed."""
    peer = random_peer("small", digits.info)
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        try:
            answer = exporter.export(peer, digits, str(tmp_path))
            classifier = load_classifier(answer["directory"])
            images = random_images((8, 8, 1), 2)
            predicted = classifier.predict(images)
        finally:
            flags.FLAGS.mark_as_parsed()
    assert answer["formats"].keys() == {"saved_model", "tflite"}
    assert classifier.info == digits.info
    assert classifier.run_flags == {}
    np.testing.assert_array_equal(
        predicted.argmax(axis=-1), logits_of(peer, images).argmax(axis=-1)
    )


def test_an_export_that_is_bound_to_fail_is_refused_beforehand(tmp_path):
    (tmp_path / "file").touch()
    for flag, message in (
        (f"{tmp_path / 'file'}", "Not a directory"),
        (f"{tmp_path / 'file' / 'below'}", "Not a directory"),
        (f"{tmp_path / ('x' * 300)}", "File name too long"),
    ):
        with (
            flagsaver.as_parsed(export_dir=flag),
            pytest.raises(UserError, match=message) as error,
        ):
            exporter.check_export_from_flags()
        assert "\n" not in str(error.value)
    with flagsaver.as_parsed(export_dir=str(tmp_path / "new" / "x")):
        exporter.check_export_from_flags()
    exporter.check_export_from_flags()
    assert os.listdir(tmp_path) == ["file"]


def test_a_format_whose_package_is_missing_is_refused_beforehand(
    digits, tmp_path, monkeypatch
):
    lacking = FORMATS["tflite"]._replace(packages={"no_such_module": "some-package"})
    monkeypatch.setitem(FORMATS, "tflite", lacking)
    message = r"--formats=tflite needs the package some-package.*`pip install some-pack"
    with pytest.raises(UserError, match=message):
        exporter.check_export_from_flags()
    peer = random_peer("small", digits.info)
    with pytest.raises(UserError, match=message):
        export(peer, exports.OneImage(digits.info), tmp_path / "new")
    assert os.listdir(tmp_path) == []
    with flagsaver.as_parsed(formats="saved_model"):
        exporter.check_export_from_flags()


def test_the_home_directory_is_expanded(digits, run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(run_dir[0])
    with flagsaver.as_parsed(
        run_dir="~/run", export_dir="~/exported", formats="saved_model"
    ):
        answer = exporter.export_from_flags(run_dir_from_flags(), digits)
    assert answer["directory"] == str(tmp_path / "exported" / "1")
    assert load_classifier("~/exported/1").name == answer["name"]
    assert load_classifier("~/run").format == "checkpoint"
    assert load_teacher("~/run", digits.info).name == "resnet8"
    assert sorted(os.listdir(tmp_path)) == ["exported", "run"]


def test_the_default_directory_is_a_name_that_every_file_system_takes(digits):
    peer = random_peer("small", digits.info)
    for name, expected in (
        ("digits", "small_digits"),
        ("folder:/data/my photos/", "small_my_photos"),
        ("csv:/data/labels.csv", "small_labels.csv"),
        ("folder:/data/caf\udce9\n", "small_caf_"),
    ):
        info = dataclasses.replace(digits.info, name=name)
        assert exporter._default_export_dir(peer, info).name == expected
    info = dataclasses.replace(digits.info, name="folder:/" + "猫" * 200)
    name = exporter._default_export_dir(peer, info).name
    assert len(name.encode()) <= 200
    assert name.startswith("small_猫猫")
