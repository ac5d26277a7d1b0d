"""Image files of any common format, read with Pillow and turned upright."""

import contextlib
import importlib
import os
import threading
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from afd_tf.base.console import one_line
from afd_tf.base.errors import UserError
from afd_tf.data import foreign_files

GREY_MODES = ("1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L")

_ORIENTATION_TAG = 0x0112
_MAX_SAMPLE_VALUE_TAG = 281

# Whites of files with more than 8 bits per channel.
_WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)

# What teaches Pillow a format: module, function.
_PLUGINS = {
    "heic": (("pillow_heif", "register_heif_opener"),),
    "avif": (("pillow_avif", None), ("pillow_heif", "register_avif_opener")),
}
_registered: dict[str, bool] = {}
_plugins_lock = threading.Lock()


def read_image(
    path: str | os.PathLike | BinaryIO,
    *,
    channels: int,
    image_size: int | tuple[int, int] | None = None,
    fraction: float = 1.0,
    name: str | None = None,
    white_level: float | None = None,
) -> np.ndarray:
    """Reads an image file.

    Transparent pixels are laid over white, values of more than 8 bits are scaled to
    0..255 (see `white_level_of`), and the camera's orientation is applied. An
    animation gives its first image.

    Args:
      path: the file, or its content.
      channels: 1 (grey) or 3 (red, green, blue); other images are converted.
      image_size: N for N x N, or (height, width), in pixels: the largest central part
        with this aspect ratio is cropped and resized (bilinear, antialiased). None
        keeps the size.
      fraction: the part of that centre's height and width to keep, 0..1.
      name: the file's name in messages; None is its path.
      white_level: the value of white in files of more than 8 bits; None takes it from
        the file.

    Returns:
      uint8 [h, w, channels].

    Raises:
      UserError: the file is no image, or a broken one.
    """
    name = one_line(str(path) if name is None else name)
    with open_image(path, name) as file:
        turn_upright(file, name)
        try:
            image = flatten(file, white_level)
            image = image.convert("L" if channels == 1 else "RGB")
        except Exception as error:
            raise broken(name, error) from error
    if image_size is not None:
        height, width = (
            (image_size, image_size) if isinstance(image_size, int) else image_size
        )
        rows, columns = central_size(
            (image.height, image.width), (height, width), fraction
        )
        left, top = (image.width - columns) // 2, (image.height - rows) // 2
        # `resize(box=...)` would let pixels outside the box in.
        image = image.crop((left, top, left + columns, top + rows))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def central_size(
    image_size: tuple[int, int], size: tuple[int, int], fraction: float
) -> tuple[int, int]:
    """Returns height and width of a central crop, as `augment.central_crop` has them.

    Args:
      image_size: height and width of the image in pixels.
      size: height and width, whose aspect ratio the crop has.
      fraction: the part of the largest such crop's height and width to keep, 0..1.
    """
    # In float32, as TensorFlow computes it: 0.875 of 300 pixels is between 262 and 263.
    scale = np.float32(fraction) * np.min(np.float32(image_size) / np.float32(size))
    rows, columns = np.maximum(np.rint(scale * np.float32(size)), 1).astype(int)
    return int(rows), int(columns)


def find_image_files(folder: str) -> list[str]:
    """Returns the paths of all image files below a folder, sorted.

    They are recognized by the endings of their names; hidden files and folders are
    left out.
    """
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(path, name)
            for name in files
            if not name.startswith(".") and has_image_ending(name)
        ]
    return sorted(found)


def has_image_ending(name: str) -> bool:
    """Returns whether a file's name ends like that of an image."""
    ending = os.path.splitext(name)[1].lower()
    return ending in Image.registered_extensions() or ending in (".heic", ".avif")


def open_image(path: str | os.PathLike | BinaryIO, name: str) -> Image.Image:
    """Opens an image file without decoding it.

    Args:
      path: the file, or its content.
      name: the file's name in messages.

    Raises:
      UserError: the file cannot be read, or is no image.
    """
    try:
        return Image.open(path)
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            place = path if isinstance(path, str) else None
            what = foreign_files.describe_error(error, place)
            raise UserError(f"{name} {one_line(what)}") from error
        head = _head(path)
        kind = foreign_files.brand(head)
        if kind is None or not _register_plugin(kind):
            raise UserError(f"{name} {foreign_files.describe(head)}") from error
    try:
        return Image.open(path)
    except Exception as error:
        raise broken(name, error) from error


def turn_upright(image: Image.Image, name: str) -> int:
    """Decodes an open image and applies the camera's orientation, both in place.

    Args:
      image: from `open_image`.
      name: the file's name in messages.

    Returns:
      the EXIF orientation that was applied here, 1..8. Pillow 11.3 and newer apply
      that of a TIFF while they decode it, and so it is 1.

    Raises:
      UserError: the image is broken.
    """
    try:
        image.load()
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        ImageOps.exif_transpose(image, in_place=True)
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except Exception as error:  # Pillow's plugins raise nearly anything
        raise broken(name, error) from error
    return orientation if orientation in range(1, 9) else 1


def flatten(image: Image.Image, white_level: float | None) -> Image.Image:
    """Returns the image without transparency and with 8 bits per channel.

    Args:
      image: a decoded image.
      white_level: see `read_image`.
    """
    if is_deep(image):
        # `convert` would clip at 255.
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        white = white_level or white_level_of(image)
        # Of integers, the upper 8 bits: 65535 / 256 and 4095 / 16 are both 255.
        scale = (white + 1) / 256 if white in _WHITE_LEVELS else white / 255
        scaled = np.minimum(values, white) / scale
        scaled = np.floor(scaled) if white in _WHITE_LEVELS else np.rint(scaled)
        return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image)
    return image


def is_deep(image: Image.Image) -> bool:
    """Returns whether an image has grey values of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def white_level_of(image: Image.Image) -> float:
    """Returns the value of white in a decoded image of more than 8 bits.

    A file of 16 bits has 65535, unless it says otherwise (TIFF's MaxSampleValue).
    Files of 32 bits, integers or floats, do not say it: the smallest level that no
    value exceeds is taken.
    """
    if stated := stated_white_level(image):
        return stated
    if image.mode.startswith("I;16") or image.format == "PNG":
        return 65535.0
    return smallest_white_level(largest_value(image), is_float=image.mode == "F")


def stated_white_level(image: Image.Image) -> float | None:
    """Returns the value of white that a TIFF of more than 8 bits states, if it does."""
    stated = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE_TAG)
    stated = max(stated) if isinstance(stated, tuple) and stated else stated
    return float(stated) if isinstance(stated, int | float) and stated > 255 else None


def smallest_white_level(largest: float, *, is_float: bool) -> float:
    """Returns the smallest usual value of white that `largest` does not exceed.

    Args:
      largest: the largest value of an image, or of all images of a data set.
      is_float: whether the values are floats, which may also reach from 0 to 1.
    """
    levels = (1, 255, 65535) if is_float else _WHITE_LEVELS
    return float(next((level for level in levels if largest <= level), largest))


def largest_value(image: Image.Image) -> float:
    """Returns the largest finite value of a decoded image."""
    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def broken(name: str, error: Exception) -> UserError:
    """Returns the error for an image that `error` kept from being decoded."""
    reason = one_line(str(error)) or type(error).__name__
    return UserError(f"{name} is a broken image ({reason}): remove or repair it.")


def _too_large(name: str) -> UserError:
    return UserError(
        f"{name} is too large: images of more than "
        f"{2 * Image.MAX_IMAGE_PIXELS:,} pixels are refused. Make it smaller, or "
        f"remove it."
    )


def _head(path: str | os.PathLike | BinaryIO) -> bytes:
    if hasattr(path, "read"):
        path.seek(0)
        head = path.read(512)
        path.seek(0)
        return head
    with open(path, "rb") as file:
        return file.read(512)


def _register_plugin(kind: str) -> bool:
    """Returns whether Pillow has been taught a format that it does not know itself.

    Args:
      kind: see `foreign_files.brand`.
    """
    with _plugins_lock:
        if kind not in _registered:
            _registered[kind] = False
            for module, function in _PLUGINS[kind]:
                with contextlib.suppress(ImportError, AttributeError):
                    imported = importlib.import_module(module)
                    if function:
                        getattr(imported, function)()
                    _registered[kind] = True
                    break
        return _registered[kind]


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
