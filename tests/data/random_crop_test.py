"""Random crops against torchvision's rule, and their resizing."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.data import random_crop


def random_images(*shape):
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


def seed(step):
    return tf.constant([1, step], tf.int64)


def torchvision_boxes(count, height, width):
    """torchvision's RandomResizedCrop.get_params, from its documentation."""
    generator = np.random.default_rng(0)
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area = height * width * generator.uniform(0.08, 1)
            ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = generator.integers(0, height - h + 1)
                left = generator.integers(0, width - w + 1)
                boxes.append((top, left, h, w))
                break
    return np.array(boxes)


def test_boxes_follow_torchvisions_rule():
    boxes = random_crop.random_boxes(seed(0), count=8000, height=90, width=120).numpy()
    np.testing.assert_array_equal(boxes, np.round(boxes))
    assert boxes.min() >= 0
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 90
    assert (boxes[:, 1] + boxes[:, 3]).max() <= 120
    expected = torchvision_boxes(8000, 90, 120)
    levels = np.linspace(0, 1, 21)
    np.testing.assert_allclose(
        np.quantile(boxes, levels, axis=0),
        np.quantile(expected, levels, axis=0),
        atol=3,
    )


def test_box_of_a_very_narrow_image_is_its_centre():
    boxes = random_crop.random_boxes(seed(0), count=50, height=300, width=4).numpy()
    # No box with 8 % of the area and an allowed ratio fits.
    np.testing.assert_array_equal(boxes, np.tile([[147, 0, 5, 4]], [50, 1]))


def test_resized_crop_reproduces_a_linear_image():
    # Bilinear interpolation is exact on a ramp, so each result must be a ramp, rising
    # or (mirrored) falling by at most the source's step.
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, [32, 1])[..., np.newaxis]
    images = np.tile(ramp, [64, 1, 1, 1])
    result = random_crop.random_resized_crop_flip(images, seed(5)).numpy().astype(int)
    slopes = np.diff(result[:, 0, :, 0], axis=1)
    assert ((slopes >= 0).all(axis=1) | (slopes <= 0).all(axis=1)).all()
    assert np.abs(slopes).max() <= 9
    assert 16 < (slopes.sum(axis=1) < 0).sum() < 48
    np.testing.assert_array_equal(result, result[:, :1].repeat(32, axis=1))


def test_one_image_of_any_size_is_cropped_and_resized():
    image = np.full([50, 80, 3], 77, np.uint8)
    result = random_crop.random_resized_crop_flip_one(image, seed(0), size=(16, 16))
    np.testing.assert_array_equal(result, np.full([16, 16, 3], 77))


@pytest.mark.parametrize("shape", [(48, 60), (24, 20), (31, 26), (9, 11), (60, 13)])
def test_a_crop_is_resized_without_aliasing(shape):
    # A smooth image keeps its look whichever way is taken.
    rows = np.linspace(0, 3, shape[0])[:, np.newaxis, np.newaxis]
    columns = np.linspace(0, 2, shape[1])[np.newaxis, :, np.newaxis]
    image = np.round(127 + 120 * np.sin(rows + columns)).astype(np.uint8)
    expected = tf.image.resize(image, (24, 20), antialias=True).numpy()
    found = random_crop.resize_crop(image, (24, 20)).numpy()
    assert found.shape == (24, 20, 1) and found.dtype == np.uint8
    assert np.abs(found - expected)[1:-1, 1:-1].max() <= 3
    # Stripes finer than the new pixels become an even grey.
    if shape == (48, 60):
        stripes = np.tile(np.uint8([0, 200, 100]), [48, 20])[..., np.newaxis]
        np.testing.assert_array_equal(random_crop.resize_crop(stripes, (24, 20)), 100)


def test_shrinking_averages_over_areas():
    image = random_images(8, 12, 3)
    expected = image.reshape(4, 2, 4, 3, 3).mean(axis=(1, 3))
    found = random_crop.resize_crop(image, (4, 4)).numpy()
    assert np.abs(found - expected).max() <= 0.501


@pytest.mark.parametrize("least_area", [0.35, 1.0])
def test_the_smallest_part_of_an_image(least_area):
    boxes = random_crop.random_boxes(
        seed(0), count=4000, height=300, width=300, least_area=least_area
    ).numpy()
    areas = boxes[:, 2] * boxes[:, 3] / 300**2
    # Sides are whole pixels.
    assert areas.min() > least_area - 0.01
    if least_area < 1:
        # Draws that do not fit are drawn again: large areas are rarer.
        assert areas.min() < least_area + 0.01 and 0.6 < np.median(areas) < 0.68
