"""Calibration images: always the same ones, each class in proportion."""

import numpy as np

from afd_tf.artifacts.calibration import calibration_images


def test_calibration_takes_each_class_in_proportion(digits):
    chosen, described = calibration_images(digits, 100)
    again, _ = calibration_images(digits, 100)
    np.testing.assert_array_equal(chosen, again)
    assert described == {
        "split": "train",
        "count": 100,
        "seed": 0,
        "classes": 10,
        "images_per_class": [10, 10],
    }
    train = digits.evaluation_batches("train", batch_size=2000)
    batch = next(train.as_numpy_iterator())
    known = {
        image.tobytes(): label
        for image, label in zip(batch["image"], batch["label"], strict=True)
    }
    labels = [known[image.tobytes()] for image in chosen]
    np.testing.assert_array_equal(np.bincount(labels), [10] * 10)
    everything, described = calibration_images(digits, 10_000)
    assert len(everything) == described["count"] == 1437
