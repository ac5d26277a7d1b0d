"""Augmentation and cropping of raw uint8 pixels.

The models normalize pixels, so that training, serving and the phone see the same
ones. What is random here depends on the seed alone.
"""

from collections.abc import Sequence

import tensorflow as tf

from afd_tf.base.errors import UserError, unknown_name

AUGMENTATIONS = ("none", "cifar", "imagenet")
PADDINGS = ("reflect", "zero")

# Pixels added on each side before the random crop of "cifar".
CROP_PADDING = 4

# Data sets of colour images whose meaning a mirror image would change.
_DIGIT_SETS = ("svhn",)

# Attempts of torchvision's RandomResizedCrop before it takes the centre.
_BOX_ATTEMPTS = 10


def resolve_augmentation(augment: str, *, name: str, image_shape: Sequence[int]) -> str:
    """Returns the augmentation that `augment` stands for, one of `AUGMENTATIONS`.

    Args:
      augment: "auto" or one of `AUGMENTATIONS`. "auto" is "none" for grey images
        and for digits (a mirrored digit is another sign), else "cifar" up to 64
        pixels and "imagenet" above.
      name: the name of the data set.
      image_shape: height, width, channels.

    Raises:
      UserError: `augment` is unknown.
    """
    if augment != "auto":
        if augment not in AUGMENTATIONS:
            raise unknown_name("augmentation", augment, ("auto", *AUGMENTATIONS))
        return augment
    height, width, channels = image_shape
    if channels == 1 or name.startswith(_DIGIT_SETS):
        return "none"
    return "cifar" if max(height, width) <= 64 else "imagenet"


def check_padding(padding: str, *, augment: str, image_shape: Sequence[int]) -> None:
    """Checks that images can be padded as asked.

    Args:
      padding: one of `PADDINGS`.
      augment: one of `AUGMENTATIONS`; only "cifar" pads.
      image_shape: height, width, channels.

    Raises:
      UserError: `padding` is unknown, or the images are too small to be reflected.
    """
    if padding not in PADDINGS:
        raise unknown_name("padding", padding, PADDINGS)
    smallest = min(image_shape[:2])
    if augment == "cifar" and padding == "reflect" and smallest <= CROP_PADDING:
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


def random_boxes(
    seed: tf.Tensor, *, count: int | tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Draws random crops as torchvision's `RandomResizedCrop` does.

    Each has 8 to 100 % of the image's area and a width between 3/4 and 4/3 of its
    height. Where none of ten draws fits into the image, it is the largest central
    crop with such a ratio.

    Args:
      seed: int64 [2].
      count: the number of crops.
      height: of the image in pixels, int32 scalar.
      width: of the image in pixels, int32 scalar.

    Returns:
      float32 [count, 4]: top, left, height and width in whole pixels.
    """
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    uniform = tf.random.stateless_uniform([4, count, _BOX_ATTEMPTS], seed, alg="philox")
    area = height * width * (0.08 + uniform[0] * 0.92)
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


def random_resized_crop_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Crops at random, resizes back (bilinear) and mirrors every second image.

    Args:
      images: uint8 [B, h, w, c].
      seed: int64 [2].

    Returns:
      uint8 [B, h, w, c].
    """
    batch, height, width = tf.unstack(tf.shape(images)[:3])
    box_seed, flip_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, alg="philox")
    )
    boxes = random_boxes(box_seed, count=batch, height=height, width=width)
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
    seed: tf.Tensor, *, height: tf.Tensor, width: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws what `random_resized_crop_flip_one` does with an image.

    Args:
      seed: int64 [2].
      height: of the image in pixels, int32 scalar.
      width: of the image in pixels, int32 scalar.

    Returns:
      int32 [4], top, left, height and width of the crop in pixels; and whether it is
      mirrored, bool scalar.
    """
    box_seed, flip_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, alg="philox")
    )
    box = random_boxes(box_seed, count=1, height=height, width=width)[0]
    mirrored = tf.random.stateless_uniform([], flip_seed, alg="philox") < 0.5
    return tf.cast(box, tf.int32), mirrored


def random_resized_crop_flip_one(
    image: tf.Tensor, seed: tf.Tensor, *, size: tuple[int, int]
) -> tf.Tensor:
    """Crops one image of any size at random, resizes it and perhaps mirrors it.

    Unlike `random_resized_crop_flip`, it resizes without aliasing (`resize_crop`).

    Args:
      image: uint8 [h, w, c], of any height and width.
      seed: int64 [2].
      size: height and width of the result in pixels.

    Returns:
      uint8 [size[0], size[1], c].
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    box, mirrored = draw_crop(seed, height=height, width=width)
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


def augment_batch(
    images: tf.Tensor, seed: tf.Tensor, *, augment: str, padding: str
) -> tf.Tensor:
    """Augments a batch of images that all have one size.

    Args:
      images: uint8 [B, h, w, c].
      seed: int64 [2].
      augment: one of `AUGMENTATIONS`.
      padding: one of `PADDINGS`, used by "cifar".

    Returns:
      uint8 [B, h, w, c].
    """
    if augment == "cifar":
        return pad_crop_flip(images, seed, padding=padding)
    if augment == "imagenet":
        return random_resized_crop_flip(images, seed)
    return images
