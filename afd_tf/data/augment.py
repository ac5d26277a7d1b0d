"""Augmentation and cropping of raw uint8 pixels.

The models normalize pixels, so that training, serving and the phone see the same
ones. What is random here depends on the seed alone.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.data.choices import PADDINGS, crop_style

# Pixels added on each side before the random crop of "cifar".
CROP_PADDING = 4


def check_padding(padding: str, *, augment: str, image_shape: Sequence[int]) -> None:
    """Checks that images can be padded as asked.

    Args:
      padding: one of `PADDINGS`.
      augment: one of `AUGMENTATIONS`; only crops as those of "cifar" need padding.
      image_shape: height, width, channels.

    Raises:
      UserError: `padding` is unknown, or the images are too small to be reflected.
    """
    if padding not in PADDINGS:
        raise unknown_name("padding", padding, PADDINGS)
    smallest = min(image_shape[:2])
    pads = crop_style(augment, image_shape=image_shape) == "cifar"
    if pads and padding == "reflect" and smallest <= CROP_PADDING:
        raise UserError(
            f"images of {image_shape[0]}x{image_shape[1]} pixels are too small to "
            f"reflect {CROP_PADDING} pixels: pass --padding=zero or --augment=none."
        )


def pad_crop_flip(
    images: tf.Tensor, seed: tf.Tensor, *, padding: str = "reflect"
) -> tf.Tensor:
    """Pads by 4 pixels, crops back at random and mirrors every second image.

    Padding, crop and mirror only determine the source of each pixel, so that the
    whole batch is one gather.

    Args:
      images: uint8 [B, h, w, c].
      seed: int64 [2], the only source of randomness.
      padding: "reflect" (without repeating the edge) or "zero".

    Returns:
      uint8 [B, h, w, c].
    """
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    channels = images.shape[3]
    offset_seed, flip_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, alg="philox")
    )
    offsets = tf.random.stateless_uniform(
        [2, batch, 1],
        offset_seed,
        -CROP_PADDING,
        CROP_PADDING + 1,
        tf.int32,
        alg="philox",
    )
    mirrored = tf.random.stateless_uniform([batch, 1], flip_seed, alg="philox") < 0.5
    columns = tf.range(width)[tf.newaxis]
    rows = tf.range(height)[tf.newaxis] + offsets[0]  # [B, h]
    columns = tf.where(mirrored, width - 1 - columns, columns) + offsets[1]  # [B, w]

    sources = tf.range(batch)[:, tf.newaxis, tf.newaxis] * (height * width)
    sources += _reflect(rows, height)[:, :, tf.newaxis] * width
    sources += _reflect(columns, width)[:, tf.newaxis, :]  # [B, h, w]
    pixels = tf.gather(tf.reshape(images, [-1, channels]), sources)
    if padding == "zero":
        inside_rows = (rows >= 0) & (rows < height)
        inside_columns = (columns >= 0) & (columns < width)
        inside = inside_rows[:, :, tf.newaxis] & inside_columns[:, tf.newaxis, :]
        pixels *= tf.cast(inside, tf.uint8)[..., tf.newaxis]
    return tf.ensure_shape(pixels, images.shape)


def _reflect(positions: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Mirrors positions outside of 0..size-1 at the nearer edge, then clips them."""
    positions = tf.abs(positions)
    positions = size - 1 - tf.abs(size - 1 - positions)
    return tf.maximum(positions, 0)


def central_crop(
    image: tf.Tensor, *, size: tuple[int, int], fraction: float = 1.0
) -> tf.Tensor:
    """Crops the largest centre with the aspect ratio of `size` and resizes it.

    Args:
      image: uint8 [h, w, c], of any height and width.
      size: height and width of the result in pixels.
      fraction: the part of that centre's height and width to keep, 0..1; 0.875 is the
        usual "resize the shorter side to 256, crop 224".

    Returns:
      uint8 [size[0], size[1], c], resized bilinearly with antialiasing.
    """
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    scale = tf.minimum(height / size[0], width / size[1]) * fraction
    crop_height = tf.cast(tf.maximum(tf.round(scale * size[0]), 1), tf.int32)
    crop_width = tf.cast(tf.maximum(tf.round(scale * size[1]), 1), tf.int32)
    top = (tf.shape(image)[0] - crop_height) // 2
    left = (tf.shape(image)[1] - crop_width) // 2
    crop = image[top : top + crop_height, left : left + crop_width]
    return to_uint8(tf.image.resize(crop, size, antialias=True))


def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Rounds and clips float pixels to uint8 0..255, of the same shape."""
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)


def change_some(
    images: tf.Tensor,
    chosen: tf.Tensor,
    change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Changes some images of a batch and leaves the others alone.

    Args:
      images: uint8 [B, h, w, c].
      chosen: bool [B].
      change: takes those images, uint8 [n, h, w, c] with n > 0, and their places,
        int64 [n]; returns others of that shape.

    Returns:
      uint8 [B, h, w, c].
    """
    places = tf.where(chosen)

    def changed() -> tf.Tensor:
        part = change(tf.gather(images, places[:, 0]), places[:, 0])
        return tf.tensor_scatter_nd_update(images, places, part)

    result = tf.cond(tf.reduce_any(chosen), changed, lambda: images)
    return tf.ensure_shape(result, images.shape)
