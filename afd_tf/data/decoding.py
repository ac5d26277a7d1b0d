"""Encoded images to pixels with TensorFlow's own operations, without Python.

JPEGs are decoded with the accurate inverse cosine transform, as Pillow does it.
"""

from typing import NamedTuple

import tensorflow as tf

from afd_tf.data.augment import to_uint8
from afd_tf.data.random_crop import (
    LEAST_AREA,
    draw_crop,
    random_resized_crop_flip_one,
    resize_crop,
)

_ACCURATE = "INTEGER_ACCURATE"

# Fractions 1/n of a JPEG's height and width that the decoder can decode directly.
_REDUCTIONS = (2, 4, 8)
# A reduced crop keeps at least so many times the height and width of the result. It
# then looks as if it had been resized in one go (Pillow's `reducing_gap`).
_REDUCING_GAP = 2


class EncodedImage(NamedTuple):
    """An image as it is stored.

    Attributes:
      contents: of a JPEG, PNG, GIF or BMP file, string scalar.
      orientation: 1..8, int32 scalar: EXIF's number for the way in which the stored
        pixels have to be turned and mirrored to be upright; 1 is not at all.
    """

    contents: tf.Tensor
    orientation: tf.Tensor


def decode_upright(image: EncodedImage, *, channels: int) -> tf.Tensor:
    """Decodes a whole image.

    An animation gives its first image.

    Args:
      image: the image.
      channels: 1 (grey) or 3 (red, green, blue).

    Returns:
      uint8 [h, w, channels], upright.
    """
    pixels = tf.cond(
        tf.io.is_jpeg(image.contents),
        lambda: tf.io.decode_jpeg(image.contents, channels, dct_method=_ACCURATE),
        lambda: tf.io.decode_image(image.contents, channels, expand_animations=False),
    )
    pixels = tf.ensure_shape(pixels, [None, None, channels])
    return _turn_upright(pixels, image.orientation, tf.constant(False))


def random_resized_crop_flip_encoded(
    image: EncodedImage,
    seed: tf.Tensor,
    *,
    size: tuple[int, int],
    channels: int,
    least_area: float = LEAST_AREA,
) -> tf.Tensor:
    """Does `random_resized_crop_flip_one` to an image, but decodes only the crop.

    It is the same crop. Where a JPEG's crop is more than four times as large as the
    result, a half, a quarter or an eighth of its height and width is decoded.

    Args:
      image: the image.
      seed: int64 [2].
      size: height and width of the result in pixels.
      channels: 1 (grey) or 3 (red, green, blue).
      least_area: see `random_boxes`.

    Returns:
      uint8 [size[0], size[1], channels].
    """
    pixels = tf.cond(
        tf.io.is_jpeg(image.contents),
        lambda: _random_resized_crop_flip_jpeg(image, seed, size, channels, least_area),
        lambda: random_resized_crop_flip_one(
            decode_upright(image, channels=channels),
            seed,
            size=size,
            least_area=least_area,
        ),
    )
    return tf.ensure_shape(pixels, [*size, channels])


def _random_resized_crop_flip_jpeg(
    image: EncodedImage,
    seed: tf.Tensor,
    size: tuple[int, int],
    channels: int,
    least_area: float,
) -> tf.Tensor:
    height, width = tf.unstack(tf.io.extract_jpeg_shape(image.contents)[:2])
    transposed, _, _ = _turns(image.orientation)
    height, width = (
        tf.where(transposed, width, height),
        tf.where(transposed, height, width),
    )
    box, mirrored = draw_crop(seed, height=height, width=width, least_area=least_area)
    box = stored_box(box, image.orientation, height=height, width=width)
    stored_size = tf.where(transposed, size[::-1], size)
    pixels = _decode_and_resize(image.contents, box, stored_size, channels)
    return _turn_upright(pixels, image.orientation, mirrored)


def _decode_and_resize(
    contents: tf.Tensor, box: tf.Tensor, size: tf.Tensor, channels: int
) -> tf.Tensor:
    """Decodes a part of a JPEG and resizes it.

    Args:
      contents: of the file.
      box: top, left, height and width of the part in pixels, int32 [4].
      size: height and width of the result in pixels, int32 [2].
      channels: 1 or 3.

    Returns:
      uint8 [size[0], size[1], channels].
    """

    def decoded(window: tf.Tensor, reduction: int) -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(
            contents,
            window,
            channels=channels,
            ratio=reduction,
            dct_method=_ACCURATE,
        )

    def reduced(reduction: int) -> tf.Tensor:
        first = box[:2] // reduction
        last = -(-(box[:2] + box[2:]) // reduction)
        crop = decoded(tf.concat([first, last - first], axis=0), reduction)
        # Top and left of the box need not be whole numbers of reduced pixels.
        scale = tf.cast(size * reduction, tf.float32) / tf.cast(box[2:], tf.float32)
        offset = tf.cast(box[:2], tf.float32) / reduction - tf.cast(first, tf.float32)
        pixels = tf.raw_ops.ScaleAndTranslate(
            images=crop[tf.newaxis],
            size=size,
            scale=scale,
            translation=-offset * scale,
            kernel_type="triangle",
            antialias=True,
        )
        return to_uint8(pixels[0])

    surplus = tf.reduce_min(box[2:] // (size * _REDUCING_GAP))
    return tf.switch_case(
        tf.reduce_sum(tf.cast(surplus >= _REDUCTIONS, tf.int32)),
        [
            lambda: resize_crop(decoded(box, 1), size),
            *(
                lambda reduction=reduction: reduced(reduction)
                for reduction in _REDUCTIONS
            ),
        ],
    )


def stored_box(
    box: tf.Tensor, orientation: tf.Tensor, *, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Finds the part of the stored pixels that is a part of the upright image.

    Args:
      box: top, left, height and width of the part of the upright image, int32 [4].
      orientation: see `EncodedImage`.
      height: of the upright image, int32 scalar.
      width: of the upright image, int32 scalar.

    Returns:
      int32 [4]: top, left, height and width of the part of the stored pixels.
    """
    transposed, upside_down, mirrored = _turns(orientation)
    top, left, box_height, box_width = tf.unstack(box)
    top = tf.where(upside_down, height - top - box_height, top)
    left = tf.where(mirrored, width - left - box_width, left)
    return tf.where(
        transposed,
        tf.stack([left, top, box_width, box_height]),
        tf.stack([top, left, box_height, box_width]),
    )


def _turns(orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns what makes stored pixels upright, as bool scalars, in this order.

    They are: exchanging rows and columns, reversing the rows, reversing the columns.
    """
    reversed_rows = tf.reduce_any(orientation == [3, 4, 7, 8])
    reversed_columns = tf.reduce_any(orientation == [2, 3, 6, 7])
    return orientation >= 5, reversed_rows, reversed_columns


def _turn_upright(
    pixels: tf.Tensor, orientation: tf.Tensor, mirror: tf.Tensor
) -> tf.Tensor:
    """Turns stored pixels upright and then perhaps mirrors them.

    Args:
      pixels: [h, w, c].
      orientation: see `EncodedImage`.
      mirror: bool scalar.

    Returns:
      [h, w, c] or [w, h, c].
    """
    transposed, reversed_rows, reversed_columns = _turns(orientation)
    # Conditions cost nothing, unlike `tf.where`, which would copy pixel by pixel.
    pixels = tf.cond(
        transposed, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels
    )
    pixels = tf.cond(reversed_rows, lambda: tf.reverse(pixels, [0]), lambda: pixels)
    return tf.cond(
        tf.not_equal(reversed_columns, mirror),
        lambda: tf.reverse(pixels, [1]),
        lambda: pixels,
    )
