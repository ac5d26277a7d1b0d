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
