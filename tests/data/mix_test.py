"""Mixed batches against the images and labels that they were made of."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.data import mix

SIDES = (9, 14)


def batch(size, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "image": generator.integers(0, 256, (size, *SIDES, 3), np.uint8),
        "label": generator.integers(0, 7, size).astype(np.int32),
    }


def mixed(given, step, **alphas):
    given = {name: tf.constant(values) for name, values in given.items()}
    seed = tf.constant([5, step], tf.int64)
    found = mix.mix_batch(given, seed, **{"mixup": 0.0, "cutmix": 0.0, **alphas})
    return {name: values.numpy() for name, values in found.items()}


def box_of(found, given):
    """Returns the box of partners' pixels as slices, or None where there is none."""
    changed = (found["image"] != given["image"]).any(axis=(0, 3))
    if not changed.any():
        return None
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def assert_mixed_up(found, given):
    own = given["image"].astype(np.float64)
    weight = found["mixed_weight"][0].astype(np.float64)
    expected = (1 - weight) * own + weight * own[::-1]
    # Rounded; float32 may take a tie for either side.
    assert np.abs(found["image"] - expected).max() <= 0.5 + 1e-4


def assert_cut(found, given):
    expected = given["image"].copy()
    box = box_of(found, given)
    area = 0
    if box:
        rows, columns = box
        expected[:, rows, columns] = given["image"][::-1, rows, columns]
        area = np.prod([side.stop - side.start for side in box])
    np.testing.assert_array_equal(found["image"], expected)
    np.testing.assert_array_equal(
        found["mixed_weight"], np.float32(area / np.prod(SIDES))
    )


@pytest.mark.parametrize("size", [1, 2, 16])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_pixels_and_labels_are_mixed_alike(kind, size):
    given = batch(size)
    weights = []
    for step in range(5):
        found = mixed(given, step, **{kind: 1.0})
        assert found["image"].dtype == np.uint8
        np.testing.assert_array_equal(found["label"], given["label"])
        np.testing.assert_array_equal(found["mixed_label"], given["label"][::-1])
        weights.append(found["mixed_weight"])
        if size == 1:  # an image and itself
            np.testing.assert_array_equal(found["image"], given["image"])
        elif kind == "mixup":
            assert_mixed_up(found, given)
        else:
            assert_cut(found, given)
    assert len(set(map(bytes, weights))) > 3
    again = mixed(given, 4, **{kind: 1.0})
    np.testing.assert_array_equal(again["image"], found["image"])


def test_with_both_kinds_each_batch_takes_one():
    given = batch(16)
    steps = tf.data.Dataset.range(200)
    constants = {name: tf.constant(values) for name, values in given.items()}
    mixed_batches = steps.map(
        lambda step: mix.mix_batch(
            constants, tf.stack([5, step]), mixup=1.0, cutmix=1.0
        )
    )
    pasted = 0
    for found in mixed_batches.as_numpy_iterator():
        # The weight of a box is a whole number of pixels, by chance alone that of a
        # blend.
        pixels = np.prod(SIDES)
        weight = found["mixed_weight"][0]
        is_pasted = np.float32(np.round(weight * pixels) / pixels) == weight
        pasted += is_pasted
        (assert_cut if is_pasted else assert_mixed_up)(found, given)
    assert 70 < pasted < 130  # 100 expected, p = 2e-5


@pytest.mark.parametrize("alpha", [0.001, 0.2, 1.0, 5.0])
def test_proportions_have_the_distribution_beta(alpha):
    count = 4000
    steps = tf.data.Dataset.range(count)
    weights = steps.map(lambda step: mix.partner_weight(tf.stack([5, step]), alpha))
    drawn = np.sort(list(weights.as_numpy_iterator()))
    assert drawn[0] >= 0 and drawn[-1] <= 1
    expected = np.sort(np.random.default_rng(0).beta(alpha, alpha, count))
    # Kolmogorov and Smirnov's test, p = 1e-4.
    levels = np.linspace(0.001, 0.999, 400)
    below = [np.searchsorted(each, levels) / count for each in (drawn, expected)]
    assert np.abs(below[0] - below[1]).max() < 2.2 * np.sqrt(2 / count)


def test_boxes_have_the_area_drawn_and_any_place():
    images = tf.constant(np.repeat(np.uint8([0, 1]), 2400).reshape(2, 40, 60, 1))
    boxes = tf.data.Dataset.range(1500).map(
        lambda step: mix.cut_and_paste(images, tf.stack([3, step]), 1.0)[0][0]
    )
    masks = np.stack(list(boxes.as_numpy_iterator()))[..., 0]
    # As in the paper's code: sides times the root of 1 - lambda, about any centre.
    generator = np.random.default_rng(1)
    expected = np.zeros_like(masks)
    for mask in expected:
        side = np.sqrt(generator.beta(1, 1))
        row, column = generator.integers(40), generator.integers(60)
        height, width = int(40 * side) // 2, int(60 * side) // 2
        rows = slice(max(row - height, 0), row + height)
        mask[rows, max(column - width, 0) : column + width] = 1
    np.testing.assert_allclose(masks.mean(0), expected.mean(0), atol=0.07)
    levels = np.linspace(0, 1, 21)
    np.testing.assert_allclose(
        *(np.quantile(each.mean((1, 2)), levels) for each in (masks, expected)),
        atol=0.06,
    )
