"""The facts about one image file that training needs, found in one reading of it."""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from afd_tf.data import image_files

# Files of several images, as some cameras write, begin with a JPEG.
_JPEG = ("JPEG", "MPO")

# JPEG decoders can shrink while they decode; this is enough for a perceptual hash.
_DRAFT_SIZE = (64, 64)

# Baseline, extended sequential and progressive JPEG with Huffman coding.
_PLAIN_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)


class ImageFile(NamedTuple):
    """An image file of a data set.

    Attributes:
      path: relative to the data set's folder; any bytes, as `os.fsdecode` gives them.
      label: the class.
      num_bytes: the size of the file.
      height: of the upright image, in pixels.
      width: of the upright image, in pixels.
      channels: 1 (grey) or 3.
      orientation: EXIF orientation 1..8 that a decoder other than Pillow has to apply;
        1 where `native` is false.
      native: whether TensorFlow decodes it to Pillow's pixels, but for the orientation
        and a rounding step.
      sha256: of its bytes, in hexadecimal.
      perceptual_hash: 128 bits in hexadecimal; similar for images that look alike.
      largest_value: the largest grey value of a file of more than 8 bits, or the one
        that it states if that is larger; 0 for other files.
      is_float: whether such a file has floats.
    """

    path: str
    label: int
    num_bytes: int
    height: int
    width: int
    channels: int
    orientation: int
    native: bool
    sha256: str
    perceptual_hash: str
    largest_value: float
    is_float: bool


def inspect(content: bytes, *, path: str, name: str) -> ImageFile:
    """Decodes an image file once and returns the facts about it, with label 0.

    Args:
      content: the bytes of the file.
      path: for the result.
      name: the file's name in messages.

    Raises:
      UserError: the file is no image, or a broken one.
    """
    with image_files.open_image(io.BytesIO(content), name) as image:
        native = is_native(image, content)
        mode, (width, height) = image.mode, image.size
        drafted = native and image.format in _JPEG
        if drafted:
            image.draft("L", _DRAFT_SIZE)
        orientation = image_files.turn_upright(image, name)
        if not drafted:
            width, height = image.size
        elif orientation >= 5:  # turned by 90 degrees
            width, height = height, width
        is_deep = image_files.is_deep(image)
        try:
            largest = 0.0
            if is_deep:
                stated = image_files.stated_white_level(image) or 0.0
                largest = max(image_files.largest_value(image), stated)
            grey = image_files.flatten(image, None).convert("RGB").convert("L")
        except Exception as error:
            raise image_files.broken(name, error) from error
        return ImageFile(
            path=path,
            label=0,
            num_bytes=len(content),
            height=height,
            width=width,
            channels=1 if mode in image_files.GREY_MODES else 3,
            orientation=orientation if native else 1,
            native=native,
            sha256=hashlib.sha256(content).hexdigest(),
            perceptual_hash=difference_hash(grey),
            largest_value=largest,
            is_float=is_deep and image.mode == "F",
        )


def is_native(image: Image.Image, content: bytes) -> bool:
    """Returns whether TensorFlow decodes a file to the pixels that Pillow gives.

    Args:
      image: the open file, not decoded yet.
      content: its bytes.
    """
    transparent = "transparency" in image.info
    if image.format in _JPEG:
        return image.mode in ("L", "RGB") and _is_plain_jpeg(content)
    if image.format == "PNG":
        # In the head of a PNG: bits per channel, then the kind of its colours.
        return content[24] == 8 and image.mode in ("L", "RGB", "P") and not transparent
    if image.format == "BMP":
        # TensorFlow ignores palettes and keeps alpha channels.
        bits, compression = content[28:30], content[30:34]
        return (bits, compression) == (b"\x18\x00", b"\x00\x00\x00\x00")
    if image.format == "GIF":
        # Of an animation TensorFlow decodes all images.
        covered = bool(image.tile) and image.tile[0][1] == (0, 0, *image.size)
        still = not getattr(image, "is_animated", False)
        return image.mode in ("P", "RGB") and not transparent and covered and still
    return False


def _is_plain_jpeg(content: bytes) -> bool:
    """Returns whether a JPEG has 8 bits and a coding that all decoders know."""
    position = 2
    while position + 5 <= len(content) and content[position] == 0xFF:
        kind = content[position + 1]
        if kind == 0xFF:  # a filling byte
            position += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            # The frame's header. TensorFlow, unlike Pillow, refuses a missing end.
            ends = content.rfind(b"\xff\xd9") > position
            return kind in _PLAIN_JPEG_FRAMES and content[position + 4] == 8 and ends
        elif kind == 0x01 or 0xD0 <= kind <= 0xD9:  # without a length
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return False


def difference_hash(grey: Image.Image) -> str:
    """Returns whether each of 8 x 8 places is darker than its right and lower ones.

    Images that were compressed again or resized differ in few of the 128 bits.
    (After N. Krawetz, "Kind of Like That", 2013.)

    Args:
      grey: an image of mode "L".

    Returns:
      32 hexadecimal digits.
    """
    small = np.asarray(grey.resize((9, 9), Image.Resampling.BILINEAR), np.int16)
    rows = small[:8, 1:] > small[:8, :8]  # [8, 8]
    columns = small[1:, :8] > small[:8, :8]  # [8, 8]
    return np.packbits(np.stack([rows, columns])).tobytes().hex()
