"""RandAugment's operations against Pillow, and their draws."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from afd_tf.data import randaugment
from afd_tf.data.randaugment import OPERATIONS


def pillows(image, operation, sign, magnitude):
    """Returns what torchvision's RandAugment makes of an image, uint8 [h, w, c]."""
    pillow = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    width, height = pillow.size
    part = magnitude / 30
    factor = 1 + sign * 0.9 * part

    def affine(*matrix):
        return pillow.transform(pillow.size, Image.Transform.AFFINE, matrix)

    result = {
        "identity": lambda: pillow,
        "shear_x": lambda: affine(1, sign * 0.3 * part, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, sign * 0.3 * part, 1, 0),
        "translate_x": lambda: affine(
            1, 0, -int(sign * 150 / 331 * width * part), 0, 1, 0
        ),
        "translate_y": lambda: affine(
            1, 0, 0, 0, 1, -int(sign * 150 / 331 * height * part)
        ),
        "rotate": lambda: pillow.rotate(sign * 30 * part),
        "brightness": lambda: ImageEnhance.Brightness(pillow).enhance(factor),
        "color": lambda: ImageEnhance.Color(pillow).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(pillow).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(pillow).enhance(factor),
        "posterize": lambda: ImageOps.posterize(pillow, 8 - round(magnitude / 7.5)),
        "solarize": lambda: ImageOps.solarize(pillow, 8.5 * (30 - magnitude)),
        "auto_contrast": lambda: ImageOps.autocontrast(pillow),
        "equalize": lambda: ImageOps.equalize(pillow),
    }[operation]()
    return np.asarray(result).reshape(image.shape)


def images_of(shape):
    """Noise, low contrast, smooth, flat, and with two values only."""
    generator = np.random.default_rng(0)
    walks = np.cumsum(generator.normal(0, 4, (2, *shape)), axis=2)
    return np.concatenate(
        [
            generator.integers(0, 256, (2, *shape)),
            np.clip(generator.normal(100, 9, (2, *shape)), 0, 255),
            walks % 256,
            np.full((1, *shape), 77),
            30 + 100 * generator.integers(0, 2, (1, *shape)),
        ]
    ).astype(np.uint8)


@pytest.mark.parametrize("magnitude", [0, 9, 20, 30])
@pytest.mark.parametrize("shape", [(32, 32, 3), (13, 20, 3), (28, 27, 1), (2, 5, 3)])
def test_every_operation_gives_pillows_pixels(shape, magnitude):
    images = images_of(shape)
    cases = [
        (image, number, negative)
        for image in images
        for number in range(len(OPERATIONS))
        for negative in (0, 1)
    ]
    sources, numbers, negatives = map(np.stack, zip(*cases, strict=True))
    found = randaugment.apply_operations(
        tf.constant(sources),
        tf.constant(numbers, tf.int32),
        tf.constant(negatives, tf.int32),
        magnitude=magnitude,
    )
    for case, result in zip(cases, found.numpy(), strict=True):
        image, number, negative = case
        expected = pillows(image, OPERATIONS[number], 1 - 2 * negative, magnitude)
        # Pillow blends in float32 and cuts off, perhaps with a fused product.
        difference = np.abs(result.astype(int) - expected).max()
        assert difference <= 1, (OPERATIONS[number], negative)
        if OPERATIONS[number] not in ("brightness", "color", "contrast", "sharpness"):
            assert difference == 0, (OPERATIONS[number], negative)


def test_every_image_has_draws_of_its_own():
    image = images_of((12, 12, 3))[4]
    count = 2800
    images = tf.constant(np.tile(image, [count, 1, 1, 1]))
    draw = tf.function(
        lambda layers, seed: randaugment.randaugment(
            images, seed, layers=layers, magnitude=15
        ),
        autograph=False,
    )
    found = draw(1, tf.constant([1, 2], tf.int64)).numpy()
    kinds = {}
    for number, operation in enumerate(OPERATIONS):
        for sign in (1, -1):
            kinds.setdefault(pillows(image, operation, sign, 15).tobytes(), []).append(
                number
            )
    seen = np.zeros(len(OPERATIONS))
    for result in found:
        # Operations that come to the same share their images.
        shared = kinds[result.tobytes()]
        for number in shared:
            seen[number] += 1 / len(shared)
    chi_square = np.sum((seen - count / 14) ** 2 / (count / 14))
    assert chi_square < 43  # 13 degrees of freedom: p = 4e-5
    # Two layers are one after the other, and the seed decides alone.
    twice = draw(2, tf.constant([1, 2], tf.int64)).numpy()
    possible = {
        pillows(
            np.frombuffer(first, np.uint8).reshape(12, 12, 3), name, s, 15
        ).tobytes()
        for first in kinds
        for name in OPERATIONS
        for s in (1, -1)
    }
    assert {result.tobytes() for result in twice[:50]} <= possible
    np.testing.assert_array_equal(draw(2, tf.constant([1, 2], tf.int64)), twice)
    assert (draw(2, tf.constant([1, 3], tf.int64)).numpy() != twice).any()
