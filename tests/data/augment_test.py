import numpy as np
import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.data import augment


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
    for function in (augment.pad_crop_flip, augment.random_resized_crop_flip):
        tf.random.set_seed(1)
        first = function(images, seed(3)).numpy()
        tf.random.set_seed(2)
        np.testing.assert_array_equal(function(images, seed(3)), first)
        assert (function(images, seed(4)).numpy() != first).any()


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
    boxes = augment.random_boxes(seed(0), count=8000, height=90, width=120).numpy()
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
    boxes = augment.random_boxes(seed(0), count=50, height=300, width=4).numpy()
    # No box with 8 % of the area and an allowed ratio fits.
    np.testing.assert_array_equal(boxes, np.tile([[147, 0, 5, 4]], [50, 1]))


def test_resized_crop_reproduces_a_linear_image():
    # Bilinear interpolation is exact on a ramp, so each result must be a ramp, rising
    # or (mirrored) falling by at most the source's step.
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, [32, 1])[..., np.newaxis]
    images = np.tile(ramp, [64, 1, 1, 1])
    result = augment.random_resized_crop_flip(images, seed(5)).numpy().astype(int)
    slopes = np.diff(result[:, 0, :, 0], axis=1)
    assert ((slopes >= 0).all(axis=1) | (slopes <= 0).all(axis=1)).all()
    assert np.abs(slopes).max() <= 9
    assert 16 < (slopes.sum(axis=1) < 0).sum() < 48
    np.testing.assert_array_equal(result, result[:, :1].repeat(32, axis=1))


def test_one_image_of_any_size_is_cropped_and_resized():
    image = np.full([50, 80, 3], 77, np.uint8)
    result = augment.random_resized_crop_flip_one(image, seed(0), size=(16, 16))
    np.testing.assert_array_equal(result, np.full([16, 16, 3], 77))


@pytest.mark.parametrize("shape", [(48, 60), (24, 20), (31, 26), (9, 11), (60, 13)])
def test_a_crop_is_resized_without_aliasing(shape):
    # A smooth image keeps its look whichever way is taken.
    rows = np.linspace(0, 3, shape[0])[:, np.newaxis, np.newaxis]
    columns = np.linspace(0, 2, shape[1])[np.newaxis, :, np.newaxis]
    image = np.round(127 + 120 * np.sin(rows + columns)).astype(np.uint8)
    expected = tf.image.resize(image, (24, 20), antialias=True).numpy()
    found = augment.resize_crop(image, (24, 20)).numpy()
    assert found.shape == (24, 20, 1) and found.dtype == np.uint8
    assert np.abs(found - expected)[1:-1, 1:-1].max() <= 3
    # Stripes finer than the new pixels become an even grey.
    if shape == (48, 60):
        stripes = np.tile(np.uint8([0, 200, 100]), [48, 20])[..., np.newaxis]
        np.testing.assert_array_equal(augment.resize_crop(stripes, (24, 20)), 100)


def test_shrinking_averages_over_areas():
    image = random_images(8, 12, 3)
    expected = image.reshape(4, 2, 4, 3, 3).mean(axis=(1, 3))
    found = augment.resize_crop(image, (4, 4)).numpy()
    assert np.abs(found - expected).max() <= 0.501


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


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("cifar100", (32, 32, 3), "cifar"),
        ("mnist", (28, 28, 1), "none"),
        ("svhn_cropped", (32, 32, 3), "none"),
        ("imagenet2012", (224, 224, 3), "imagenet"),
        ("tiny", (64, 64, 3), "cifar"),
    ],
)
def test_auto(name, shape, expected):
    assert (
        augment.resolve_augmentation("auto", name=name, image_shape=shape) == expected
    )
    assert augment.resolve_augmentation("none", name=name, image_shape=shape) == "none"


def test_mistakes():
    with pytest.raises(UserError, match="Did you mean 'cifar'"):
        augment.resolve_augmentation("cifer", name="x", image_shape=(8, 8, 3))
    with pytest.raises(UserError, match="unknown padding 'mirror'"):
        augment.check_padding("mirror", augment="cifar", image_shape=(8, 8, 3))
    with pytest.raises(UserError, match="--padding=zero"):
        augment.check_padding("reflect", augment="cifar", image_shape=(4, 9, 3))
    augment.check_padding("zero", augment="cifar", image_shape=(4, 4, 3))
    augment.check_padding("reflect", augment="none", image_shape=(4, 4, 3))
