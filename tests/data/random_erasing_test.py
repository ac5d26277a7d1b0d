"""Erased boxes and their noise."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.data.random_erasing import erased_boxes, random_erasing

SEED = tf.constant([3, 4], tf.int64)


def torchvisions_boxes(count, height, width):
    """torchvision's RandomErasing.get_params, from its documentation."""
    generator = np.random.default_rng(0)
    boxes = []
    while len(boxes) < count:
        area = height * width * generator.uniform(0.02, 0.33)
        ratio = np.exp(generator.uniform(np.log(0.3), np.log(3.3)))
        h, w = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if h < height and w < width:
            top = generator.integers(0, height - h + 1)
            boxes.append((top, generator.integers(0, width - w + 1), h, w))
    return np.array(boxes)


def test_boxes_follow_torchvisions_rule():
    boxes, found = erased_boxes(SEED, count=8000, height=60, width=90)
    boxes = boxes.numpy()
    assert found.numpy().all() and boxes.min() >= 0
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 60 and boxes[:, 2].max() < 60
    assert (boxes[:, 1] + boxes[:, 3]).max() <= 90 and boxes[:, 3].max() < 90
    levels = np.linspace(0, 1, 21)
    expected = torchvisions_boxes(8000, 60, 90)
    np.testing.assert_allclose(
        np.quantile(boxes, levels, axis=0),
        np.quantile(expected, levels, axis=0),
        atol=3,
    )


def test_an_image_too_narrow_for_any_box_stays():
    images = np.full([20, 1, 40, 1], 7, np.uint8)
    found = random_erasing(tf.constant(images), SEED, probability=1.0)
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_box_of_noise_in_some_images(channels):
    count, value = 2000, 77
    images = tf.fill([count, 12, 16, channels], tf.constant(value, tf.uint8))
    found = random_erasing(images, SEED, probability=0.25).numpy()
    changed = (found != value).any(axis=3)
    erased = changed.any(axis=(1, 2))
    assert 410 < erased.sum() < 590  # 500 expected, p = 4e-6
    noise = []
    for image, mask in zip(found[erased], changed[erased], strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # By chance noise has the old value.
        assert box.mean() > 0.5
        if box.size > 12:
            inner = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            noise.append(inner.reshape(-1))
    seen = np.bincount(np.concatenate(noise), minlength=256)
    expected = seen.sum() / 256
    # 255 degrees of freedom: p = 1e-5.
    assert np.sum((seen - expected) ** 2 / expected) < 360
    again = random_erasing(images, SEED, probability=0.25).numpy()
    np.testing.assert_array_equal(again, found)
    everything = random_erasing(images, SEED, probability=1.0).numpy()
    assert (everything != value).any(axis=(1, 2, 3)).mean() > 0.99
