"""RandAugment (Cubuk et al. 2020): random operations on images, as in torchvision.

Each operation gives Pillow's pixels. Of each kind of operation, all images of a batch
that it was drawn for are changed together.
"""

import math

import numpy as np
import tensorflow as tf

from afd_tf.data.augment import change_some
from afd_tf.data.choices import MAX_MAGNITUDE

# torchvision's, in its order.
OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_POINTWISE = ("brightness", "posterize", "solarize")

# Pillow's weights of red, green and blue in a grey pixel, in 1 / 2^16.
_GREY_WEIGHTS = (19595, 38470, 7471)


def randaugment(
    images: tf.Tensor, seed: tf.Tensor, *, layers: int, magnitude: int
) -> tf.Tensor:
    """Does some random operations to each image, one after the other.

    Args:
      images: uint8 [B, h, w, c], of 1 or 3 channels.
      seed: int64 [2].
      layers: number of operations on each image.
      magnitude: their strength, 0..30.

    Returns:
      uint8 [B, h, w, c].
    """
    count = tf.shape(images)[0]
    operation_seed, sign_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, alg="philox")
    )
    operations = tf.random.stateless_uniform(
        [layers, count], operation_seed, 0, len(OPERATIONS), tf.int32, alg="philox"
    )
    negative = tf.random.stateless_uniform(
        [layers, count], sign_seed, 0, 2, tf.int32, alg="philox"
    )
    for layer in range(layers):
        images = apply_operations(
            images, operations[layer], negative[layer], magnitude=magnitude
        )
    return images


def apply_operations(
    images: tf.Tensor, operations: tf.Tensor, negative: tf.Tensor, *, magnitude: int
) -> tf.Tensor:
    """Does one operation to each image.

    Args:
      images: uint8 [B, h, w, c], of 1 or 3 channels.
      operations: numbers of `OPERATIONS`, int32 [B].
      negative: 1 for an operation to the other side, such as a turn to the right
        instead of the left, or less brightness instead of more; else 0; int32 [B]. It
        makes no difference to posterize, solarize, auto_contrast and equalize.
      magnitude: strength of the operations, 0..30.

    Returns:
      uint8 [B, h, w, c]; where the image was moved away, it is black.
    """
    factors = _factors(magnitude)
    matrices = _matrices(magnitude, *images.shape[1:3])
    tables = _pointwise_tables(magnitude)

    def of_images(constant: np.ndarray, places: tf.Tensor) -> tf.Tensor:
        """Looks up in [operations, 2, ...] what belongs to each image."""
        numbers = tf.stack([operations, negative], axis=1)
        return tf.gather_nd(constant, tf.gather(numbers, places))

    def move(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        return _transform(images, of_images(matrices, places))

    def change_values(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        return _look_up(images, of_images(tables, places)[:, tf.newaxis])

    def enhance(degenerate):
        def enhanced(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
            factor = of_images(factors, places)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            return _blend(degenerate(images), images, factor)

        return enhanced

    for names, change in (
        (_GEOMETRIC, move),
        (_POINTWISE, change_values),
        (("color",), enhance(_grey)),
        (("contrast",), enhance(_mean_grey)),
        (("sharpness",), enhance(_smooth)),
        (("auto_contrast",), lambda images, _: _look_up(images, _stretch(images))),
        (("equalize",), lambda images, _: _look_up(images, _even_out(images))),
    ):
        numbers = [OPERATIONS.index(name) for name in names]
        chosen = tf.reduce_any(operations[:, tf.newaxis] == numbers, axis=1)
        images = change_some(images, chosen, change)
    return images


def _factors(magnitude: int) -> np.ndarray:
    """Returns the factors of Pillow's `ImageEnhance`, float32 [operations, 2]."""
    change = 0.9 * magnitude / MAX_MAGNITUDE
    return np.tile(np.float32([1 + change, 1 - change]), [len(OPERATIONS), 1])


def _matrices(magnitude: int, height: int, width: int) -> np.ndarray:
    """Returns where the pixels of a moved image come from.

    Returns:
      int32 [operations, 2, 6], in 1 / 2^16 of a pixel, as Pillow computes: pixel
      (x, y) comes from (m2 + m0 x + m1 y, m5 + m3 x + m4 y), rounded down.
    """
    part = magnitude / MAX_MAGNITUDE
    matrices = np.zeros([len(OPERATIONS), 2, 6])
    for negative, sign in enumerate((1, -1)):
        shear = sign * 0.3 * part
        right, down = (sign * int(150 / 331 * side * part) for side in (width, height))
        cos, sin = (f(-sign * math.radians(30 * part)) for f in (math.cos, math.sin))
        x, y = width / 2, height / 2
        for name, matrix in {
            "shear_x": [1, shear, 0, 0, 1, 0],
            "shear_y": [1, 0, 0, shear, 1, 0],
            "translate_x": [1, 0, -right, 0, 1, 0],
            "translate_y": [1, 0, 0, 0, 1, -down],
            # To the left, about the centre.
            "rotate": [
                *(cos, sin, x - cos * x - sin * y),
                *(-sin, cos, y + sin * x - cos * y),
            ],
        }.items():
            matrices[OPERATIONS.index(name), negative] = matrix
    # From the corner of a pixel to its centre.
    matrices[..., 2] += (matrices[..., 0] + matrices[..., 1]) / 2
    matrices[..., 5] += (matrices[..., 3] + matrices[..., 4]) / 2
    return np.floor(matrices * 65536 + 0.5).astype(np.int32)


def _transform(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Moves the pixels of images uint8 [n, h, w, c]; int32 [n, 6], see `_matrices`."""
    count = tf.shape(images)[0]
    height, width, channels = images.shape[1:]
    matrices = matrices[:, tf.newaxis, tf.newaxis]  # [n, 1, 1, 6]
    x, y = tf.range(width), tf.range(height)[:, tf.newaxis]
    columns, rows = (
        tf.bitwise.right_shift(
            matrices[..., first + 2]
            + matrices[..., first] * x
            + matrices[..., first + 1] * y,
            16,
        )
        for first in (0, 3)
    )  # [n, h, w]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    sources = tf.clip_by_value(rows, 0, height - 1) * width
    sources += tf.clip_by_value(columns, 0, width - 1)
    sources += tf.range(count)[:, tf.newaxis, tf.newaxis] * (height * width)
    pixels = tf.gather(tf.reshape(images, [-1, channels]), sources)
    return pixels * tf.cast(inside, tf.uint8)[..., tf.newaxis]


def _pointwise_tables(magnitude: int) -> np.ndarray:
    """Returns the new value of each old one, uint8 [operations, 2, 256]."""
    values = np.arange(256)
    bits = 8 - round(4 * magnitude / MAX_MAGNITUDE)
    threshold = 255 * (MAX_MAGNITUDE - magnitude) / MAX_MAGNITUDE
    tables = np.zeros([len(OPERATIONS), 2, 256], np.uint8)
    for negative, factor in enumerate(_factors(magnitude)[0]):
        brighter = np.minimum(values.astype(np.float32) * factor, 255)
        tables[OPERATIONS.index("brightness"), negative] = brighter
        tables[OPERATIONS.index("posterize"), negative] = values & (0xFF << 8 - bits)
        tables[OPERATIONS.index("solarize"), negative] = np.where(
            values < threshold, values, 255 - values
        )
    return tables


def _look_up(images: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Returns the values that tables give to those of images.

    Args:
      images: uint8 [n, h, w, c].
      tables: uint8 [n, c, 256], or [n, 1, 256] for all channels.
    """
    places = tf.cast(images, tf.int32)
    if tables.shape[1] > 1:
        places += 256 * tf.range(images.shape[3])
    count, channels = tf.shape(tables)[0], tables.shape[1]
    first = 256 * channels * tf.range(count)
    places += first[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.gather(tf.reshape(tables, [-1]), places)


def _blend(degenerate: tf.Tensor, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns degenerate + factor (images - degenerate), clipped and cut off.

    Args:
      degenerate: int32 [n, h, w, 1 or c], or [n, 1, 1, 1].
      images: uint8 [n, h, w, c].
      factor: float32 [n, 1, 1, 1]; 1 gives the images.
    """
    degenerate = tf.cast(degenerate, tf.float32)
    change = factor * (tf.cast(images, tf.float32) - degenerate)
    return tf.cast(tf.clip_by_value(degenerate + change, 0, 255), tf.uint8)


def _grey(images: tf.Tensor) -> tf.Tensor:
    """Returns Pillow's grey image, int32 [n, h, w, 1]."""
    values = tf.cast(images, tf.int32)
    if images.shape[3] == 1:
        return values
    grey = tf.reduce_sum(values * _GREY_WEIGHTS, axis=3, keepdims=True) + (1 << 15)
    return tf.bitwise.right_shift(grey, 16)


def _mean_grey(images: tf.Tensor) -> tf.Tensor:
    """Returns the rounded mean of Pillow's grey image, int32 [n, 1, 1, 1]."""
    # The mean of integers: float64 keeps their sum exact.
    grey = tf.cast(_grey(images), tf.float64)
    return tf.cast(tf.reduce_mean(grey, axis=[1, 2], keepdims=True) + 0.5, tf.int32)


def _smooth(images: tf.Tensor) -> tf.Tensor:
    """Returns Pillow's smoothed image, int32 [n, h, w, c]; its edges stay.

    Each pixel becomes the mean of the 3x3 around it, in which it counts 5 times.
    """
    values = tf.cast(images, tf.int32)
    height, width = images.shape[1:3]
    if min(height, width) < 3:
        return values
    rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = values[:, 1:-1, 1:-1]
    means = (2 * (sums + 4 * inner) + 13) // 26  # rounded
    edges = [[0, 0], [1, 1], [1, 1], [0, 0]]
    return values + tf.pad(means - inner, edges)


def _histograms(images: tf.Tensor) -> tf.Tensor:
    """Counts the values of each image's channels, int32 [n, c, 256]."""
    count, channels = tf.shape(images)[0], images.shape[3]
    values = tf.reshape(
        tf.transpose(tf.cast(images, tf.int32), [0, 3, 1, 2]), [count * channels, -1]
    )
    counts = tf.math.bincount(values, minlength=256, maxlength=256, axis=-1)
    return tf.reshape(counts, [count, channels, 256])


def _stretch(images: tf.Tensor) -> tf.Tensor:
    """Returns tables that stretch the values of each channel to 0..255.

    They are those of Pillow's `autocontrast`, uint8 [n, c, 256].
    """
    present = _histograms(images) > 0
    values = tf.range(256)
    low = tf.reduce_min(tf.where(present, values, 255), axis=2, keepdims=True)
    high = tf.reduce_max(tf.where(present, values, 0), axis=2, keepdims=True)
    # float64 and this order, as Pillow cuts off what is behind the point.
    scale = 255 / tf.cast(tf.maximum(high - low, 1), tf.float64)
    offset = -tf.cast(low, tf.float64) * scale
    stretched = tf.cast(values, tf.float64) * scale + offset
    stretched = tf.cast(tf.clip_by_value(stretched, 0, 255), tf.int32)
    return tf.cast(tf.where(high > low, stretched, values), tf.uint8)


def _even_out(images: tf.Tensor) -> tf.Tensor:
    """Returns tables that make all values of a channel about equally frequent.

    They are those of Pillow's `equalize`, uint8 [n, c, 256].
    """
    histograms = _histograms(images)
    values = tf.range(256)
    last = tf.reduce_max(tf.where(histograms > 0, values, 0), axis=2, keepdims=True)
    of_last = tf.gather(histograms, last, batch_dims=2)
    step = (tf.reduce_sum(histograms, axis=2, keepdims=True) - of_last) // 255
    below = tf.cumsum(histograms, axis=2, exclusive=True)
    even = (step // 2 + below) // tf.maximum(step, 1)
    return tf.cast(tf.where(step > 0, tf.minimum(even, 255), values), tf.uint8)
