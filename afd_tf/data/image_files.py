"""Image files of any common format, read with Pillow and turned upright."""

import os
import struct
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from afd_tf.base.errors import UserError

_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
_ORIENTATION_TAG = 0x0112

# The errors that Pillow raises for files that are no images, or broken ones.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error)


def upright_shape(path: str | os.PathLike) -> tuple[int, int, int]:
    """Reads the shape of an image from the head of its file.

    An image is grey if its file says so, not if its channels are equal.

    Returns:
      height and width of the upright image in pixels, and channels, 1 or 3.

    Raises:
      UserError: the file is no image, or a broken one.
    """
    with _open(path, str(path)) as image:
        width, height = image.size
        try:
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        except _BROKEN as error:
            raise UserError(
                f"{path} is a broken image ({error}): remove or repair it."
            ) from error
        if orientation in (5, 6, 7, 8):  # turned by 90 degrees
            width, height = height, width
        return height, width, 1 if image.mode in _GREY_MODES else 3


def read_image(
    path: str | os.PathLike | BinaryIO,
    *,
    channels: int,
    image_size: int | tuple[int, int] | None = None,
    name: str | None = None,
) -> np.ndarray:
    """Reads an image file.

    Transparent pixels are laid over white, 16-bit grey values lose their lower
    half, and the camera's orientation is applied. An animation gives its first image.

    Args:
      path: the file, or its content.
      channels: 1 (grey) or 3 (red, green, blue); other images are converted.
      image_size: N for N x N, or (height, width), in pixels: the largest central part
        with this aspect ratio is cropped and resized (bilinear, antialiased). None
        keeps the size.
      name: the file's name in messages; None is its path.

    Returns:
      uint8 [h, w, channels].

    Raises:
      UserError: the file is no image, or a broken one.
    """
    name = str(path) if name is None else name
    with _open(path, name) as file:
        try:
            image = _flatten(ImageOps.exif_transpose(file))
            image = image.convert("L" if channels == 1 else "RGB")
        except _BROKEN as error:
            raise UserError(
                f"{name} is a broken image ({error}): remove or repair it."
            ) from error
    if image_size is not None:
        height, width = (
            (image_size, image_size) if isinstance(image_size, int) else image_size
        )
        scale = min(image.height / height, image.width / width)
        rows, columns = round(height * scale), round(width * scale)
        left, top = (image.width - columns) // 2, (image.height - rows) // 2
        # `resize(box=...)` would let pixels outside the box in.
        image = image.crop((left, top, left + columns, top + rows))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def find_image_files(folder: str) -> list[str]:
    """Returns the paths of all image files below a folder, sorted.

    They are recognized by the endings of their names; hidden files and folders are
    left out.
    """
    endings = Image.registered_extensions()
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(path, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in endings
        ]
    return sorted(found)


def _open(path: str | os.PathLike | BinaryIO, name: str) -> Image.Image:
    try:
        return Image.open(path)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{name} is too large: images of more than "
            f"{2 * Image.MAX_IMAGE_PIXELS:,} pixels are refused. Make it smaller, or "
            f"remove it."
        ) from error
    except _BROKEN as error:
        raise UserError(
            f"{name} is no image that can be read: remove or repair it."
        ) from error


def _flatten(image: Image.Image) -> Image.Image:
    """Returns the image without transparency and with 8 bits per channel."""
    if image.mode.startswith("I"):
        # `convert` would clip at 255; a 16-bit file keeps its upper half.
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image)
    return image


def common_size(sizes: Iterable[tuple[int, int]], name: str) -> tuple[int, int]:
    """Returns the (height, width) that all images have.

    Args:
      sizes: (height, width) of the images in pixels, at least one.
      name: the data set's name in the message.

    Raises:
      UserError: they differ.
    """
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    smallest, largest = ordered[0], ordered[-1]
    if smallest != largest:
        raise UserError(
            f"{name} has images of different sizes, from {smallest[0]}x"
            f"{smallest[1]} to {largest[0]}x{largest[1]} (height x width): pass "
            f"--image_size=N to crop and resize them to N x N."
        )
    return smallest
