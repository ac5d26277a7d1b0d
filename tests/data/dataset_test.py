"""`load` and its flags, and the batches of a `Dataset`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf import data
from afd_tf.base.errors import UserError
from tests.data.numbered import collect, numbered


def labels_of(dataset, split):
    batches = dataset.evaluation_batches(split, batch_size=64).as_numpy_iterator()
    return np.concatenate([b["label"][b["weight"] == 1] for b in batches])


def test_digits():
    dataset = data.load("digits")
    info = dataset.info
    assert info.image_shape == (8, 8, 1) and info.num_classes == 10
    assert info.class_names == tuple("0123456789")
    assert info.examples == {"train": 1437, "validation": 0, "test": 360}
    assert info.augment == "none"
    train, test = labels_of(dataset, "train"), labels_of(dataset, "test")
    whole = np.bincount(np.concatenate([train, test]))
    assert whole.sum() == 1797
    assert np.abs(np.bincount(test) - whole * 360 / 1797).max() <= 1
    images = np.concatenate(
        [b["image"] for b in dataset.train_batches(batch_size=100, seed=0, epochs=1)]
    )
    assert images.dtype == np.uint8 and images.min() == 0 and images.max() == 255
    assert len(np.unique(images)) == 17
    np.testing.assert_allclose(info.mean, [images.mean()], rtol=1e-12)
    np.testing.assert_allclose(info.variance, [images.var()], rtol=1e-9)


def test_the_split_of_digits_is_fixed():
    # The first twenty labels of the test split, to stay as they are for ever.
    expected = "3 4 0 8 5 1 7 0 3 3 3 1 0 0 2 1 4 9 7 5"
    found = labels_of(data.load("digits"), "test")[:20]
    assert " ".join(map(str, found)) == expected


def test_held_out_validation():
    dataset = data.load("digits", validation_examples=137)
    assert dataset.info.examples == {"train": 1300, "validation": 137, "test": 360}
    counts = np.bincount(labels_of(dataset, "validation"))
    assert counts.min() >= 13 and counts.max() <= 15
    whole = data.load("digits")
    np.testing.assert_array_equal(
        np.bincount(labels_of(dataset, "train")) + counts,
        np.bincount(labels_of(whole, "train")),
    )
    assert dataset.info.mean != whole.info.mean
    again = data.load("digits", validation_examples=137)
    assert again.info == dataset.info
    for count in (1437, 1436, 99999):
        with pytest.raises(UserError, match=f"validation_examples={count} is too many"):
            data.load("digits", validation_examples=count)


def test_info_survives_json_exactly():
    info = data.load("digits", validation_examples=100).info
    again = data.DatasetInfo.from_json(json.loads(json.dumps(info.to_json())))
    assert again == info


def test_image_size():
    dataset = data.load("digits", image_size=12)
    assert dataset.info.image_shape == (12, 12, 1)
    (batch,) = dataset.evaluation_batches("test", batch_size=360)
    assert batch["image"].shape == [360, 12, 12, 1]


def test_expected():
    info = data.load("digits").info
    values = info.to_json() | {"mean": [1.5], "variance": [2.5], "augment": "cifar"}
    frozen = data.DatasetInfo.from_json(values)
    found = data.load("digits", expected=frozen).info
    assert (found.mean, found.variance, found.augment) == ((1.5,), (2.5,), "cifar")
    for change, message in [
        ({"image_shape": [9, 9, 1]}, r"shape \(8, 8, 1\), but \(9, 9, 1\) is expected"),
        ({"class_names": ["a", "b"]}, "10 classes, not 2"),
        ({"class_names": list("012345678x")}, "class 9 called '9', not 'x'"),
    ]:
        expected = data.DatasetInfo.from_json(values | change)
        with pytest.raises(UserError, match=message):
            data.load("digits", expected=expected)


def test_nothing_is_left_after_the_last_step():
    assert (
        collect(numbered(8).train_batches(batch_size=4, seed=0, epochs=3, first_step=6))
        == []
    )


def test_every_replica_needs_its_least_number_of_images():
    arguments = {"batch_size": 4, "seed": 0, "epochs": 1, "min_images_per_replica": 2}
    with pytest.raises(
        UserError, match="2 images for 2 replicas, each of which needs at least 2:"
    ):
        numbered(10).train_batches(**arguments, replicas=2)
    assert len(collect(numbered(12).train_batches(**arguments, replicas=2))) == 6
    assert len(collect(numbered(10).train_batches(**arguments))) == 3


def test_an_unknown_split():
    with pytest.raises(UserError, match="no split 'validation'; it has train, test"):
        numbered(10).evaluation_batches("validation", batch_size=4)


def test_flags_reach_load(monkeypatch):
    calls = []
    monkeypatch.setattr(data, "load", lambda name, **rest: calls.append((name, rest)))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    with flagsaver.flagsaver(
        dataset="mnist",
        data_dir="d",
        download=False,
        image_size=9,
        augment="none",
        padding="zero",
        least_area=0.3,
        randaugment_layers=3,
        randaugment_magnitude=5,
        random_erasing=0.25,
        mixup=0.2,
        cutmix=0.5,
        sampling="balanced",
        validation_examples=3,
        train_split="a",
        test_split="b",
        cache_dir="c",
        cache_gigabytes=7,
        memory_gibibytes=6,
        test_fraction=0.3,
        validation_fraction=0.1,
        skip_bad_images=True,
        changed_data="recorded",
    ):
        data.from_flags()
    expected = {
        "data_dir": "d",
        "download": False,
        "image_size": 9,
        "augment": "none",
        "padding": "zero",
        "least_area": 0.3,
        "randaugment_layers": 3,
        "randaugment_magnitude": 5,
        "random_erasing": 0.25,
        "mixup": 0.2,
        "cutmix": 0.5,
        "sampling": "balanced",
        "validation_examples": 3,
        "train_split": "a",
        "test_split": "b",
        "cache_dir": "c",
        "cache_gigabytes": 7,
        "memory_gibibytes": 6,
        "test_fraction": 0.3,
        "validation_fraction": 0.1,
        "skip_bad_images": True,
        "expected": None,
        "recorded": None,
        "changed_data": "recorded",
    }
    assert calls == [("mnist", expected)]


def test_the_import_is_light():
    code = (
        "import sys; from afd_tf.base.command_line import quick_imports\n"
        # Without what TensorFlow would bring along.
        "with quick_imports(): import tensorflow\n"
        "before = set(sys.modules); import afd_tf.data;"
        "new = set(sys.modules) - before;"
        "assert not {'tensorflow_datasets', 'sklearn'} & new, new"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.skipif(
    "AFD_TF_TEST_DATA_DIR" not in os.environ,
    reason="AFD_TF_TEST_DATA_DIR names no directory with a prepared cifar100",
)
def test_cifar100_has_the_known_mean_and_deviation():
    directory = os.environ["AFD_TF_TEST_DATA_DIR"]
    info = data.load("cifar100", data_dir=directory, download=False).info
    assert info.examples == {"train": 50000, "validation": 0, "test": 10000}
    assert info.image_shape == (32, 32, 3) and info.num_classes == 100
    assert info.augment == "cifar" and info.class_names[:2] == (
        "apple",
        "aquarium_fish",
    )
    np.testing.assert_allclose(info.mean, [129.30, 124.07, 112.43], atol=0.005)
    np.testing.assert_allclose(
        np.sqrt(info.variance), [68.17, 65.39, 70.42], atol=0.005
    )


def test_class_counts(digits):
    labels = np.concatenate(
        [
            batch["label"][batch["weight"] > 0]
            for batch in digits.evaluation_batches(
                "train", batch_size=500
            ).as_numpy_iterator()
        ]
    )
    assert digits.class_counts() == [int(np.sum(labels == k)) for k in range(10)]
    assert sum(digits.class_counts("test")) == digits.info.examples["test"]


def test_numpy_batches_leave_out_what_fills_up():
    dataset = numbered(10)
    images, labels = zip(*dataset.numpy_batches("test", batch_size=4), strict=True)
    whole = dataset.info.examples["test"]
    assert sum(map(len, labels)) == whole
    (batch,) = dataset.evaluation_batches("test", batch_size=whole)
    np.testing.assert_array_equal(np.concatenate(images), batch["image"])
    np.testing.assert_array_equal(np.concatenate(labels), batch["label"])
