import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from afd_tf import data
from afd_tf import runner as runner_lib
from afd_tf.errors import UserError
from afd_tf.runner import load_runner
from tests import exports
from tests.exports import assert_same_logits, export, logits_of, pictures, random_peer


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load("digits", cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def exported(digits, tmp_path_factory):
    """A peer, the answer of `export`, and the directory that it wrote."""
    peer = exports.random_peer("resnet8", digits.info)
    export_dir = tmp_path_factory.mktemp("savedmodels") / "new" / "digits"
    return peer, *export(peer, digits, export_dir)


@pytest.fixture(scope="module")
def run_dir(digits, tmp_path_factory):
    """A run of two peers, and the peers."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    return directory, exports.write_run(directory, digits.info)


@pytest.fixture
def parsed_flags(tmp_path):
    with flagsaver.flagsaver():
        flags.FLAGS(["test", f"--cache_dir={tmp_path / 'cache'}"])
        yield flags.FLAGS


def test_moved_tflite_still_knows_itself(exported, digits, tmp_path):
    _, _, directory = exported
    shutil.copy(directory / "model.tflite", tmp_path / "phone.tflite")
    # As web applications have one.
    (tmp_path / "manifest.json").write_text('{"name": "app", "start_url": "/"}')
    runner = load_runner(tmp_path / "phone.tflite")
    assert runner.info == digits.info
    assert runner.run_flags == {}
    assert load_runner(directory / "model.tflite").run_flags == exports.RUN_FLAGS


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("break_it", [damage, truncate, os.unlink])
@pytest.mark.parametrize(
    "name", ["model.tflite", "saved_model.pb", "variables/variables.index"]
)
def test_damaged_files_are_refused_in_one_line(exported, tmp_path, name, break_it):
    directory = tmp_path / "1"
    shutil.copytree(exported[2], directory)
    if name != "model.tflite":
        os.unlink(directory / "model.tflite")
    break_it(directory / name)
    path = directory / "model.tflite" if name == "model.tflite" else directory
    with pytest.raises(UserError) as caught:
        load_runner(path)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


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
            load_runner(tmp_path / name)
        assert message in str(caught.value), name
        assert str(tmp_path / name) in str(caught.value), name
        assert "\n" not in str(caught.value), name


def test_run_directory_gives_all_peers(run_dir):
    directory, peers = run_dir
    runner = load_runner(directory)
    assert runner.networks[runner.chosen].name == "wrn_10_1"
    assert runner.run_flags["method"] == "independent"
    images = pictures((8, 8, 1), 3)
    for network, peer in zip(runner.networks, peers, strict=True):
        assert_same_logits(network.logits(images), logits_of(peer, images))
    assert_same_logits(runner.logits(images), logits_of(peers[1], images))
    for choice, number in (("0", 0), ("1", 1), ("resnet8", 0), ("wrn_10_1", 1)):
        assert load_runner(directory, peer=choice).chosen == number


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
        load_runner(run_dir[0], peer=choice)


def test_peer_of_an_artifact_must_be_the_one_it_holds(exported):
    assert load_runner(exported[2], peer="resnet8").chosen == 0
    with pytest.raises(UserError, match="unknown peer 'wrn_10_1'"):
        load_runner(exported[2], peer="wrn_10_1")


def test_name_of_several_peers_is_refused():
    with pytest.raises(UserError, match="2 peers are called 'resnet8'"):
        runner_lib._choose(["resnet8", "resnet8"], "resnet8")


class FewPictures:
    """Five pictures in batches of two: the last one is filled up."""

    def __init__(self, info):
        self.info = info
        self.images = pictures(info.image_shape, 5)
        self.labels = np.int32([3, 1, 4, 1, 5])

    def evaluation_batches(self, split, batch_size):
        assert split == "test"

        def batches():
            for start in (0, 2, 4):
                rows = np.arange(start, start + 2)
                yield {
                    "image": self.images[rows % 5],
                    # "second" would be right about the picture that fills up.
                    "label": np.where(rows < 5, self.labels[rows % 5], 7),
                    "weight": np.float32(rows < 5),
                }

        shape = (2, *self.info.image_shape)
        return tf.data.Dataset.from_generator(
            batches,
            output_signature={
                "image": tf.TensorSpec(shape, tf.uint8),
                "label": tf.TensorSpec([2], tf.int32),
                "weight": tf.TensorSpec([2], tf.float32),
            },
        )


def test_measure_counts_each_picture_once(digits):
    few = FewPictures(digits.info)
    table = {
        "first": [(9, 3), (9, 1), (1, 0), (9, 2), (9, 5)],
        "second": [(1, 7), (1, 1), (9, 4), (1, 6), (5, 0)],
    }

    def network(name):
        def logits(images):
            result = np.zeros((len(images), 10), np.float32)
            for row, image in enumerate(images):
                index = next(i for i in range(5) if (few.images[i] == image).all())
                height, label = table[name][index]
                result[row, label] = height
            return result

        return runner_lib.Network(name, logits)

    runner = runner_lib.Runner(
        path=Path("x"),
        format="checkpoint",
        info=digits.info,
        run_flags={},
        networks=[network("first"), network("second")],
        chosen=1,
    )
    # The labels are 3, 1, 4, 1, 5. "first" says 3, 1, 0, 2, 5 and "second" 7, 1, 4, 6,
    # 0; the mean of their probabilities follows the one with the higher logit: 3, 1,
    # 4, 2, 5.
    assert runner_lib.measure(runner, few) == {
        "examples": 5,
        "accuracy": 2 / 5,
        "peers": [
            {"name": "first", "accuracy": 3 / 5},
            {"name": "second", "accuracy": 2 / 5},
        ],
        "mean_accuracy": 0.5,
        "ensemble_accuracy": 4 / 5,
    }


def test_dataset_is_opened_as_the_run_did(digits, parsed_flags, tmp_path):
    run_flags = {
        "dataset": "digits",
        "image_size": "12",
        "validation_examples": "100",
        "download": "false",
        "data_dir": "/not/on/this/machine",
        "peer": "5",
    }
    info = dataclasses.replace(digits.info, image_shape=(12, 12, 1))
    dataset = runner_lib.dataset_from_flags(info, run_flags)
    assert dataset.info.image_shape == (12, 12, 1)
    assert dataset.info.examples["validation"] == 100
    assert dataset.info.mean == info.mean
    assert parsed_flags.download is False
    assert parsed_flags.data_dir is None
    assert parsed_flags.peer is None


def test_command_line_comes_before_the_run(digits, parsed_flags):
    flags.FLAGS(["test", "--validation_examples=30"])
    dataset = runner_lib.dataset_from_flags(
        digits.info, {"dataset": "digits", "validation_examples": "100"}
    )
    assert dataset.info.examples["validation"] == 30


def test_other_data_set_takes_only_the_size_of_the_run(digits, parsed_flags, tmp_path):
    for split in ("train", "test"):
        for number in range(10):
            folder = tmp_path / "set" / split / str(number)
            folder.mkdir(parents=True)
            picture = tf.io.encode_png(np.full((9, 9, 1), 20 * number, np.uint8))
            tf.io.write_file(str(folder / "a.png"), picture)
    parsed_flags.dataset = f"folder:{tmp_path / 'set'}"
    run_flags = {
        "dataset": "cifar10",
        "image_size": "8",
        "test_split": "test[:10%]",
        "validation_examples": "100",
    }
    dataset = runner_lib.dataset_from_flags(digits.info, run_flags)
    assert dataset.info.name.startswith("folder:")
    assert dataset.info.image_shape == (8, 8, 1)
    assert dataset.info.examples == {"train": 10, "validation": 0, "test": 10}


def test_other_classes_are_refused(digits, parsed_flags):
    names = ("0", "1", "zwei", *digits.info.class_names[3:])
    info = dataclasses.replace(digits.info, class_names=names)
    with pytest.raises(UserError, match="class 2 called '2', not 'zwei'"):
        runner_lib.dataset_from_flags(info, {})


def test_export_directory_without_a_saved_model(digits, tmp_path):
    peer = random_peer("resnet8", digits.info)
    _, directory = export(peer, exports.OnePicture(digits.info), tmp_path, ["tflite"])
    runner = load_runner(directory)
    assert runner.format == "tflite"
    assert runner.run_flags == exports.RUN_FLAGS
