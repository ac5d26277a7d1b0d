"""Random erasing (Zhong et al. 2020): a box of an image becomes noise."""

import math

import tensorflow as tf

from afd_tf.data.augment import change_some

# torchvision's: parts of the image's area, ratios of height to width, attempts.
_AREAS = (0.02, 0.33)
_RATIOS = (0.3, 3.3)
_ATTEMPTS = 10


def random_erasing(
    images: tf.Tensor, seed: tf.Tensor, *, probability: float
) -> tf.Tensor:
    """Fills a box of some images with noise, a random value 0..255 for each pixel.

    Args:
      images: uint8 [B, h, w, c].
      seed: int64 [2].
      probability: with which an image is changed, 0..1.

    Returns:
      uint8 [B, h, w, c].
    """
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    chance_seed, box_seed, noise_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 3, alg="philox")
    )
    chance = tf.random.stateless_uniform([count], chance_seed, alg="philox")
    boxes, found = erased_boxes(box_seed, count=count, height=height, width=width)

    def erase(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        top, left, box_height, box_width = tf.unstack(
            tf.gather(boxes, places)[:, :, tf.newaxis], axis=1
        )  # [n, 1] each
        rows, columns = tf.range(height), tf.range(width)
        rows = (rows >= top) & (rows < top + box_height)
        columns = (columns >= left) & (columns < left + box_width)
        inside = rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :]
        inside = tf.cast(inside, tf.uint8)[..., tf.newaxis]
        return images * (1 - inside) + _noise(tf.shape(images), noise_seed) * inside

    return change_some(images, found & (chance < probability), erase)


def erased_boxes(
    seed: tf.Tensor, *, count: int | tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws boxes as torchvision's `RandomErasing` does.

    Each has 2 to 33 % of the image's area, a height of 0.3 to 3.3 times its width, and
    less than the height and the width of the image.

    Args:
      seed: int64 [2].
      count: number of images.
      height: of the images in pixels.
      width: of the images in pixels.

    Returns:
      int32 [count, 4]: top, left, height and width in pixels; and whether one of ten
      draws fitted, bool [count].
    """
    uniform = tf.random.stateless_uniform([4, count, _ATTEMPTS], seed, alg="philox")
    least, most = _AREAS
    area = height * width * (least + uniform[0] * (most - least))
    low, high = map(math.log, _RATIOS)
    ratio = tf.exp(low + uniform[1] * (high - low))
    box_heights = tf.round(tf.sqrt(area * ratio))  # [count, attempts]
    box_widths = tf.round(tf.sqrt(area / ratio))
    fits = (box_heights < height) & (box_widths < width)
    tops = tf.floor(uniform[2] * (height - box_heights + 1))
    lefts = tf.floor(uniform[3] * (width - box_widths + 1))
    boxes = tf.stack([tops, lefts, box_heights, box_widths], axis=-1)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)
    drawn = tf.gather(boxes, first, batch_dims=1)  # [count, 4]
    return tf.cast(drawn, tf.int32), tf.reduce_any(fits, axis=1)


def _noise(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns random bytes, uint8 of the given shape."""
    size = tf.reduce_prod(shape)
    # Eight at once.
    words = tf.random.stateless_uniform(
        [-(-size // 8)], seed, None, None, tf.int64, alg="philox"
    )
    values = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size]
    return tf.reshape(values, shape)
