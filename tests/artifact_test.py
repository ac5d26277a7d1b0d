import dataclasses
import errno
import hashlib
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

from afd_tf import artifact, models
from afd_tf.data import DatasetInfo
from afd_tf.errors import UserError
from afd_tf.runner import load_runner
from tests import exports
from tests.exports import assert_same_logits, export, logits_of, pictures, random_peer


@pytest.mark.parametrize("batch_size", [1, 7])
def test_artifacts_give_the_logits_of_the_peer(exported, batch_size):
    peer, _, directory = exported
    images = pictures((8, 8, 1), batch_size)
    for path in (directory, directory / "model.tflite"):
        assert_same_logits(load_runner(path).logits(images), logits_of(peer, images))


def test_artifacts_agree_with_the_peer_on_every_test_picture(exported, digits):
    peer, answer, directory = exported
    saved_model = load_runner(directory)
    tflite = load_runner(directory / "model.tflite")
    right = total = 0
    for batch in digits.evaluation_batches("test", batch_size=64).as_numpy_iterator():
        expected = np.argmax(logits_of(peer, batch["image"]), axis=-1)
        for runner in (saved_model, tflite):
            actual = np.argmax(runner.logits(batch["image"]), axis=-1)
            np.testing.assert_array_equal(actual, expected)
        right += np.sum((expected == batch["label"]) * batch["weight"])
        total += np.sum(batch["weight"])
    assert total == 360
    for name in exports.BOTH:
        assert answer["formats"][name]["accuracy"] == right / total
        assert answer["formats"][name]["examples"] == 360
        assert answer["formats"][name]["measured_on"] == "digits test"


def test_colour_pictures_of_any_size(digits, tmp_path):
    info = dataclasses.replace(
        digits.info,
        image_shape=(12, 20, 3),
        class_names=("Katze", "Hündin", "a b"),
        mean=(120.0, 90.5, 30.0),
        variance=(4000.0, 2500.0, 0.0),
    )
    peer = random_peer("wrn_10_1", info)
    _, directory = export(peer, exports.OnePicture(info), tmp_path)
    images = pictures((12, 20, 3), 5)
    for name in ("saved_model", "tflite"):
        runner = load_runner(directory / artifact.FORMATS[name].path)
        assert runner.format == name
        assert runner.image_shape == (12, 20, 3)
        assert runner.class_names == ("Katze", "Hündin", "a b")
        assert_same_logits(runner.logits(images), logits_of(peer, images))


def test_probabilities_are_the_softmax_of_the_logits(exported):
    _, _, directory = exported
    images = pictures((8, 8, 1), 1)
    loaded = tf.saved_model.load(directory)
    served = loaded.signatures["serving_default"](image=tf.constant(images))
    on_phone = Interpreter(str(directory / "model.tflite")).get_signature_runner(
        "serving_default"
    )(image=images)
    for outputs in (served, on_phone):
        assert set(outputs) == {"logits", "probabilities"}
        logits = np.float64(outputs["logits"])
        powers = np.exp(logits - logits.max())
        np.testing.assert_allclose(
            outputs["probabilities"], powers / powers.sum(), atol=1e-6
        )


def test_saved_model_runs_where_there_is_tensorflow_only(exported, tmp_path):
    peer, _, directory = exported
    images = pictures((8, 8, 1), 3)
    np.save(tmp_path / "images.npy", images)
    program = f"""
import sys, numpy, tensorflow
loaded = tensorflow.saved_model.load({str(directory)!r})
assert list(loaded.signatures) == ["serving_default"]
outputs = loaded.signatures["serving_default"](
    image=tensorflow.constant(numpy.load("images.npy")))
numpy.save("logits.npy", outputs["logits"])
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
    actual = np.load(tmp_path / "logits.npy")
    assert_same_logits(actual, logits_of(peer, images))


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
    _, _, directory = exported
    interpreter = Interpreter(
        str(directory / "model.tflite"),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    operators = [each["op_name"] for each in interpreter._get_ops_details()]
    # The pixels' normalisation, 7 convolutions and 2 shortcuts, 3 additions: nothing
    # is left of batch normalization.
    assert operators[:3] == ["CAST", "MUL", "SUB"]
    assert operators[-3:] == ["MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    body = operators[3:-3]
    assert (body.count("CONV_2D"), body.count("ADD"), len(body)) == (9, 3, 12)


def test_tflite_takes_one_raw_picture(exported):
    _, _, directory = exported
    runner = Interpreter(str(directory / "model.tflite")).get_signature_runner(
        "serving_default"
    )
    details = runner.get_input_details()["image"]
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
        export(peer, exports.OnePicture(info), tmp_path / "x", formats=["tflite"])
    assert list(tmp_path.iterdir()) == []


def test_labels_lie_beside_and_inside(exported):
    _, _, directory = exported
    expected = "".join(f"{digit}\n" for digit in range(10))
    assert (directory / "labels.txt").read_text() == expected
    with zipfile.ZipFile(directory / "model.tflite") as archive:
        assert archive.read("labels.txt").decode() == expected


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
        if name not in ("model.tflite", "labels.txt")
    )
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
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__))).encode()
    for path in directory.rglob("*"):
        if path.is_file():
            assert here not in path.read_bytes(), path


def test_versions_count_up_and_are_never_overwritten(digits, tmp_path):
    peer = random_peer("resnet8", digits.info)
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "mine").write_text("kept")
    (tmp_path / "12").write_text("a file")
    (tmp_path / "latest").mkdir()
    names = [
        export(peer, exports.OnePicture(digits.info), tmp_path, ["tflite"])[1].name
        for _ in range(2)
    ]
    assert names == ["13", "14"]
    assert (tmp_path / "9" / "mine").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["9", "12", "13", "14", "latest"]
    )
    first, second = (tmp_path / name / "model.tflite" for name in names)
    assert first.read_bytes() == second.read_bytes()


def test_number_taken_in_the_meantime(tmp_path, monkeypatch):
    work = tmp_path / ".work"
    work.mkdir()
    (tmp_path / "1").mkdir()
    original = Path.rename

    def rename(self, target):
        if target.name == "2" and not target.exists():
            target.mkdir()
            (target / "of another export").touch()
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert artifact._rename_to_next_version(work, tmp_path) == tmp_path / "3"


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_failed_export_leaves_nothing(digits, tmp_path, monkeypatch, error, existed):
    def write_half(peer, description, directory):
        (directory / "model.tflite").write_text("half")
        raise error

    monkeypatch.setitem(
        artifact.FORMATS, "tflite", artifact.Format(write_half, "model.tflite", 1)
    )
    export_dir = tmp_path / "a" / "b"
    if existed:
        export_dir.mkdir(parents=True)
    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        export(random_peer("resnet8", digits.info), digits, export_dir, ["tflite"])
    if expected is UserError:
        assert "No space left on device" in str(caught.value)
    left = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert left == ([Path("a"), Path("a/b")] if existed else [])


def test_export_into_a_file_is_refused(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        export(random_peer("resnet8", digits.info), digits, tmp_path / "file" / "x")


def test_unknown_formats_are_refused(digits, tmp_path):
    peer = random_peer("resnet8", digits.info)
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
    assert not artifact.export_wanted()
    parsed_flags.export_dir = str(tmp_path / "x")
    assert artifact.export_wanted()
    parsed_flags.formats = ["saved_model"]
    answer = artifact.export_from_flags(directory)
    assert (answer["name"], answer["directory"]) == ("wrn_10_1", f"{tmp_path}/x/1")
    parsed_flags.peer = "0"
    assert artifact.export_from_flags(directory)["directory"] == f"{tmp_path}/x/2"
    images = pictures((8, 8, 1), 2)
    for version, peer in (("1", peers[1]), ("2", peers[0])):
        runner = load_runner(tmp_path / "x" / version)
        assert_same_logits(runner.logits(images), logits_of(peer, images))


def test_default_export_directory(run_dir, tmp_path, parsed_flags, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parsed_flags.formats = ["saved_model"]
    answer = artifact.export_from_flags(run_dir[0])
    assert answer["directory"] == "savedmodels/wrn_10_1_digits/1"
