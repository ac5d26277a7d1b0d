"""The data set that the flags describe, and that of a run that was before."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from afd_tf import data
from afd_tf.base.errors import UserError


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
    dataset = data.from_flags_of_run(info, run_flags)
    assert dataset.info.image_shape == (12, 12, 1)
    assert dataset.info.examples["validation"] == 100
    assert dataset.info.mean == info.mean
    assert parsed_flags.download is False
    assert parsed_flags.data_dir is None
    assert parsed_flags.peer is None


def test_command_line_comes_before_the_run(digits, parsed_flags):
    flags.FLAGS(["test", "--validation_examples=30"])
    dataset = data.from_flags_of_run(
        digits.info, {"dataset": "digits", "validation_examples": "100"}
    )
    assert dataset.info.examples["validation"] == 30


def test_other_data_set_takes_only_the_size_of_the_run(digits, parsed_flags, tmp_path):
    for split in ("train", "test"):
        for number in range(10):
            folder = tmp_path / "set" / split / str(number)
            folder.mkdir(parents=True)
            image = tf.io.encode_png(np.full((9, 9, 1), 20 * number, np.uint8))
            tf.io.write_file(str(folder / "a.png"), image)
    parsed_flags.dataset = f"folder:{tmp_path / 'set'}"
    run_flags = {
        "dataset": "cifar10",
        "image_size": "8",
        "test_split": "test[:10%]",
        "validation_examples": "100",
    }
    dataset = data.from_flags_of_run(digits.info, run_flags)
    assert dataset.info.name.startswith("folder:")
    assert dataset.info.image_shape == (8, 8, 1)
    assert dataset.info.examples == {"train": 10, "validation": 0, "test": 10}


def test_other_classes_are_refused(digits, parsed_flags):
    names = ("0", "1", "zwei", *digits.info.class_names[3:])
    info = dataclasses.replace(digits.info, class_names=names)
    with pytest.raises(UserError, match="class 2 called '2', not 'zwei'"):
        data.from_flags_of_run(info, {})


@pytest.fixture
def run(parsed_flags, tmp_path):
    """The info, the flags and the record of a run on a folder without splits."""
    for number in range(30):
        folder = tmp_path / "set" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        image = tf.io.encode_png(np.full((9, 9, 1), 8 * number, np.uint8))
        tf.io.write_file(str(folder / f"{number}.png"), image)
    run_flags = {"dataset": f"folder:{tmp_path}/set/", "test_fraction": "0.4"}
    flags.FLAGS(["test", *(f"--{name}={text}" for name, text in run_flags.items())])
    dataset = data.from_flags()
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["test"])
    return dataset.info, run_flags, dataset.record


def test_images_of_a_run_stay_on_their_sides(run, tmp_path):
    info, run_flags, record = run
    dataset = data.from_flags_of_run(info, run_flags, record)
    assert dataset.record == record
    # The images that were added are not evaluated, and those of the run are.
    image = tf.io.encode_png(np.full((9, 9, 1), 3, np.uint8))
    for number in range(20):
        tf.io.write_file(f"{tmp_path}/set/0/new{number}.png", image + str(number))
    (tmp_path / "set/1/bad.png").touch()
    dataset = data.from_flags_of_run(info, run_flags, record)
    assert dataset.record == record
    assert dataset.info.examples == info.examples


def test_another_folder_has_sides_of_its_own(run, tmp_path):
    info, run_flags, record = run
    flags.FLAGS(
        ["test", f"--dataset=folder:{tmp_path}/set/../set", "--test_fraction=.1"]
    )
    assert data.from_flags_of_run(info, run_flags, record).record == record
    (tmp_path / "set").rename(tmp_path / "other")
    flags.FLAGS(["test", f"--dataset=folder:{tmp_path}/other", "--test_fraction=0.9"])
    assert data.from_flags_of_run(info, run_flags, record).record != record
