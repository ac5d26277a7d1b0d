import numpy as np
import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.data import augment, choices, random_crop


def random_images(*shape):
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


def seed(step):
    return tf.constant([1, step], tf.int64)


def crops_of(image, padding):
    """All 162 images that the augmentation may make: {bytes: (row, column, flip)}."""
    mode = {"reflect": "reflect", "zero": "constant"}[padding]
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)], mode=mode)
    height, width, _ = image.shape
    crops = {}
    for row in range(9):
        for column in range(9):
            crop = padded[row : row + height, column : column + width]
            crops[crop.tobytes()] = (row, column, False)
            crops[crop[:, ::-1].tobytes()] = (row, column, True)
    return crops


@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("shape", [(12, 12, 3), (10, 7, 1)])
def test_every_image_is_a_padded_crop_of_its_source(padding, shape):
    images = random_images(6, *shape)
    tables = [crops_of(image, padding) for image in images]
    for step in range(5):
        result = augment.pad_crop_flip(images, seed(step), padding=padding)
        assert result.dtype == tf.uint8 and result.shape == images.shape
        for table, image in zip(tables, result.numpy(), strict=True):
            assert image.tobytes() in table


def test_offsets_and_mirrors_are_uniform_and_independent():
    image = random_images(1, 12, 12, 3)
    table = crops_of(image[0], "reflect")
    count = 8100
    result = augment.pad_crop_flip(np.repeat(image, count, axis=0), seed(0)).numpy()
    drawn = np.array([table[image.tobytes()] for image in result])
    cells = drawn[:, 0] * 18 + drawn[:, 1] * 2 + drawn[:, 2]
    seen = np.bincount(cells, minlength=162)
    chi_square = np.sum((seen - count / 162) ** 2 / (count / 162))
    assert chi_square < 240  # 161 degrees of freedom: p = 5e-5


def test_the_seed_decides_alone():
    images = random_images(16, 8, 8, 3)
    for function in (augment.pad_crop_flip, random_crop.random_resized_crop_flip):
        tf.random.set_seed(1)
        first = function(images, seed(3)).numpy()
        tf.random.set_seed(2)
        np.testing.assert_array_equal(function(images, seed(3)), first)
        assert (function(images, seed(4)).numpy() != first).any()


def test_central_crop():
    image = random_images(10, 6, 3)
    same = augment.central_crop(image, size=(10, 6))
    np.testing.assert_array_equal(same, image)
    square = augment.central_crop(image, size=(6, 6))
    np.testing.assert_array_equal(square, image[2:8])
    # Halving with antialiasing: weights 1 3 3 1 over the four nearest pixels.
    ramp = np.tile(
        (np.arange(8, dtype=np.uint8) * 10)[:, np.newaxis, np.newaxis], [1, 8, 1]
    )
    half = augment.central_crop(ramp, size=(4, 4)).numpy()[1:3, 0, 0]
    np.testing.assert_array_equal(half, [25, 45])
    inner = augment.central_crop(
        random_images(256, 300, 1), size=(224, 224), fraction=0.875
    )
    np.testing.assert_array_equal(inner, random_images(256, 300, 1)[16:240, 38:262])


def test_randaugment_crops_as_the_size_asks_for():
    assert choices.crop_style("randaugment", image_shape=(64, 64, 1)) == "cifar"
    assert choices.crop_style("randaugment", image_shape=(64, 65, 3)) == "imagenet"
    assert choices.crop_style("none", image_shape=(64, 65, 3)) == "none"
    with pytest.raises(UserError, match="--padding=zero"):
        augment.check_padding("reflect", augment="randaugment", image_shape=(4, 9, 3))
    augment.check_padding("reflect", augment="randaugment", image_shape=(4, 99, 3))


def test_some_images_are_changed():
    images = random_images(5, 4, 4, 3)
    chosen = np.array([True, False, False, True, False])

    def change(part, places):
        np.testing.assert_array_equal(places, [0, 3])
        return 255 - part

    found = augment.change_some(tf.constant(images), tf.constant(chosen), change)
    expected = np.where(
        chosen[:, np.newaxis, np.newaxis, np.newaxis], 255 - images, images
    )
    np.testing.assert_array_equal(found, expected)
    none = augment.change_some(tf.constant(images), tf.zeros([5], bool), change)
    np.testing.assert_array_equal(none, images)


def test_mistakes():
    with pytest.raises(UserError, match="unknown padding 'mirror'"):
        augment.check_padding("mirror", augment="cifar", image_shape=(8, 8, 3))
    with pytest.raises(UserError, match="--padding=zero"):
        augment.check_padding("reflect", augment="cifar", image_shape=(4, 9, 3))
    augment.check_padding("zero", augment="cifar", image_shape=(4, 4, 3))
    augment.check_padding("reflect", augment="none", image_shape=(4, 4, 3))
