"""Random crops of whole images, resized and mirrored, as in training on ImageNet."""

import tensorflow as tf

from afd_tf.data.augment import to_uint8
from afd_tf.data.choices import LEAST_AREA

# Attempts of torchvision's RandomResizedCrop before it takes the centre.
_BOX_ATTEMPTS = 10


def random_boxes(
    seed: tf.Tensor,
    *,
    count: int | tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    least_area: float = LEAST_AREA,
) -> tf.Tensor:
    """Draws random crops as torchvision's `RandomResizedCrop` does.

    Each has a width between 3/4 and 4/3 of its height. Where none of ten draws fits
    into the image, it is the largest central crop with such a ratio.

    Args:
      seed: int64 [2].
      count: the number of crops.
      height: of the image in pixels, int32 scalar.
      width: of the image in pixels, int32 scalar.
      least_area: the smallest part of the image's area, 0..1; the largest is all.

    Returns:
      float32 [count, 4]: top, left, height and width in whole pixels.
    """
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    uniform = tf.random.stateless_uniform([4, count, _BOX_ATTEMPTS], seed, alg="philox")
    area = height * width * (least_area + uniform[0] * (1 - least_area))
    log_ratio = tf.math.log(4 / 3)
    ratio = tf.exp((2 * uniform[1] - 1) * log_ratio)
    box_heights = tf.round(tf.sqrt(area / ratio))  # [count, attempts]
    box_widths = tf.round(tf.sqrt(area * ratio))
    fits = (box_heights <= height) & (box_widths <= width)
    fits &= (box_heights >= 1) & (box_widths >= 1)
    tops = tf.floor(uniform[2] * (height - box_heights + 1))
    lefts = tf.floor(uniform[3] * (width - box_widths + 1))
    boxes = tf.stack([tops, lefts, box_heights, box_widths], axis=-1)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)
    drawn = tf.gather(boxes, first, batch_dims=1)  # [count, 4]

    central_height = tf.minimum(height, tf.round(width * 4 / 3))
    central_width = tf.minimum(width, tf.round(height * 4 / 3))
    central = tf.stack(
        [
            tf.floor((height - central_height) / 2),
            tf.floor((width - central_width) / 2),
            central_height,
            central_width,
        ]
    )
    return tf.where(tf.reduce_any(fits, axis=1, keepdims=True), drawn, central)


def random_resized_crop_flip(
    images: tf.Tensor, seed: tf.Tensor, *, least_area: float = LEAST_AREA
) -> tf.Tensor:
    """Crops at random, resizes back (bilinear) and mirrors every second image.

    Args:
      images: uint8 [B, h, w, c].
      seed: int64 [2].
      least_area: see `random_boxes`.

    Returns:
      uint8 [B, h, w, c].
    """
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    box_seed, flip_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, alg="philox")
    )
    boxes = random_boxes(
        box_seed, count=batch, height=height, width=width, least_area=least_area
    )
    top, left, box_height, box_width = tf.unstack(boxes, axis=1)
    mirrored = tf.random.stateless_uniform([batch], flip_seed, alg="philox") < 0.5
    # Sampling from the right edge to the left one mirrors the image.
    right = left + box_width - 1
    first_column = tf.where(mirrored, right, left)
    last_column = tf.where(mirrored, left, right)
    corners = tf.stack([top, first_column, top + box_height - 1, last_column], axis=1)
    last = tf.cast(tf.stack([height, width, height, width]) - 1, tf.float32)
    # Rounding must not put a sample outside the image, where the op gives black.
    corners = tf.clip_by_value(corners / tf.maximum(last, 1), 1e-5, 1 - 1e-5)
    pixels = tf.image.crop_and_resize(images, corners, tf.range(batch), [height, width])
    return tf.ensure_shape(to_uint8(pixels), images.shape)


def draw_crop(
    seed: tf.Tensor, *, height: tf.Tensor, width: tf.Tensor, least_area: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws what `random_resized_crop_flip_one` does with an image.

    Args:
      seed: int64 [2].
      height: of the image in pixels, int32 scalar.
      width: of the image in pixels, int32 scalar.
      least_area: see `random_boxes`.

    Returns:
      int32 [4], top, left, height and width of the crop in pixels; and whether it is
      mirrored, bool scalar.
    """
    box_seed, flip_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, alg="philox")
    )
    box = random_boxes(
        box_seed, count=1, height=height, width=width, least_area=least_area
    )[0]
    mirrored = tf.random.stateless_uniform([], flip_seed, alg="philox") < 0.5
    return tf.cast(box, tf.int32), mirrored


def random_resized_crop_flip_one(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: tuple[int, int],
    least_area: float = LEAST_AREA,
) -> tf.Tensor:
    """Crops one image of any size at random, resizes it and perhaps mirrors it.

    Unlike `random_resized_crop_flip`, it resizes without aliasing (`resize_crop`).

    Args:
      image: uint8 [h, w, c], of any height and width.
      seed: int64 [2].
      size: height and width of the result in pixels.
      least_area: see `random_boxes`.

    Returns:
      uint8 [size[0], size[1], c].
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    box, mirrored = draw_crop(seed, height=height, width=width, least_area=least_area)
    top, left, box_height, box_width = tf.unstack(box)
    crop = image[top : top + box_height, left : left + box_width]
    pixels = resize_crop(crop, size)
    # `tf.where(mirrored, pixels[:, ::-1], pixels)` would take as long as decoding.
    return tf.cond(mirrored, lambda: tf.reverse(pixels, [1]), lambda: pixels)


def resize_crop(crop: tf.Tensor, size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    """Resizes a crop for training, without aliasing and as fast as TensorFlow can.

    Shrinking averages over the area of each new pixel, as in FFCV. Where no side
    shrinks by more than a quarter, it is bilinear. The antialiased bilinear filter of
    an evaluation takes three times as long as the first; it serves here where one side
    shrinks more and the other one grows.

    Args:
      crop: uint8 [h, w, c], of any height and width.
      size: height and width of the result in pixels.

    Returns:
      uint8 [size[0], size[1], c].
    """
    shape = tf.shape(crop)[:2]
    size = tf.convert_to_tensor(size)
    way = tf.where(
        tf.reduce_all(3 * shape <= 4 * size),
        0,
        tf.where(tf.reduce_all(shape >= size), 1, 2),
    )
    pixels = tf.switch_case(
        way,
        [
            lambda: tf.image.resize(crop, size, "bilinear"),
            lambda: tf.image.resize(crop, size, "area"),
            lambda: tf.image.resize(crop, size, "bilinear", antialias=True),
        ],
    )
    # They are averages of pixels: there is nothing to clip.
    return tf.cast(tf.round(pixels), tf.uint8)
