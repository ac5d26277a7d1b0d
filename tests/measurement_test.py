"""Each picture counts once, and the data set is the one that the run had."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from afd_tf.errors import UserError
from afd_tf.measurement import compare, dataset_from_flags, measure
from afd_tf.runner import Network, Runner
from tests.exports import pictures


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

        return Network(name, logits)

    runner = Runner(
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
    assert measure(runner, few) == {
        "examples": 5,
        "accuracy": 2 / 5,
        "peers": [
            {"name": "first", "accuracy": 3 / 5},
            {"name": "second", "accuracy": 2 / 5},
        ],
        "mean_accuracy": 0.5,
        "ensemble_accuracy": 4 / 5,
    }


def test_compare_by_hand(digits):
    few = FewPictures(digits.info)

    def network(name, shift):
        def logits(images):
            result = np.zeros((len(images), 10), np.float32)
            for row, image in enumerate(images):
                index = next(i for i in range(5) if (few.images[i] == image).all())
                result[row, few.labels[index]] = -8 if index == 2 else 4
                if index in (0, 2):
                    result[row, 6] += shift
            return result

        return Network(name, logits)

    # The first is wrong about the third picture, where 0 is as high as any other; the
    # second says 6 there, and the same elsewhere; the third says 6 of the first too.
    networks = [network("own", 0), network("near", 2), network("far", 5)]
    assert compare(networks, few) == [
        {"examples": 5, "accuracy": 0.8, "agreement": 1.0, "logit_difference": 0.0},
        {"examples": 5, "accuracy": 0.8, "agreement": 0.8, "logit_difference": 2 / 8},
        {"examples": 5, "accuracy": 0.6, "agreement": 0.6, "logit_difference": 5 / 8},
    ]


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
    dataset = dataset_from_flags(info, run_flags)
    assert dataset.info.image_shape == (12, 12, 1)
    assert dataset.info.examples["validation"] == 100
    assert dataset.info.mean == info.mean
    assert parsed_flags.download is False
    assert parsed_flags.data_dir is None
    assert parsed_flags.peer is None


def test_command_line_comes_before_the_run(digits, parsed_flags):
    flags.FLAGS(["test", "--validation_examples=30"])
    dataset = dataset_from_flags(
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
    dataset = dataset_from_flags(digits.info, run_flags)
    assert dataset.info.name.startswith("folder:")
    assert dataset.info.image_shape == (8, 8, 1)
    assert dataset.info.examples == {"train": 10, "validation": 0, "test": 10}


def test_other_classes_are_refused(digits, parsed_flags):
    names = ("0", "1", "zwei", *digits.info.class_names[3:])
    info = dataclasses.replace(digits.info, class_names=names)
    with pytest.raises(UserError, match="class 2 called '2', not 'zwei'"):
        dataset_from_flags(info, {})
