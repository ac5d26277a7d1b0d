"""Decoded images and computed values, kept on disk between runs.

A cache file is named after everything that determines its content, is written whole
or not at all, and is built again when it cannot be read. A cache that cannot be
written costs a warning, never a run.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from afd_tf.base.files import replacing

# Part of every key: to be raised when the decoding, a key or a file changes.
_FORMAT = 2


class Cache:
    """Results of expensive functions, in one directory.

    Args:
      directory: the directory; None is `$XDG_CACHE_HOME/afd_tf`, or
        `~/.cache/afd_tf`.
    """

    def __init__(self, directory: str | os.PathLike | None = None):
        if directory is None:
            base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
            directory = pathlib.Path(base) / "afd_tf"
        self._directory = pathlib.Path(directory).expanduser()

    def images(
        self,
        key: Mapping[str, Any],
        build: Callable[[], tuple[np.ndarray, np.ndarray]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and labels of `key`, from disk if they are there.

        Args:
          key: JSON values that determine the images.
          build: returns the images, uint8 [n, h, w, c], and their labels, int32 [n];
            called where they are not on disk.

        Returns:
          images and labels; images from disk are mapped into memory, not loaded.
        """
        paths = self._path(key, ".images.npy"), self._path(key, ".labels.npy")
        found = self._read_images(*paths)
        if found is None:
            built = build()
            for path, array in zip(paths, built, strict=True):
                self._write(path, lambda file, array=array: np.save(file, array))
            # Mapped pages, unlike built arrays, can be dropped when memory is short.
            found = self._read_images(*paths) or built
        return found

    def _read_images(
        self, images_path: pathlib.Path, labels_path: pathlib.Path
    ) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            images = np.load(images_path, mmap_mode="r")
            labels = np.load(labels_path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            logging.warning("cannot read %s, built again: %s", images_path, error)
            return None
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            logging.warning(
                "%s does not fit to %s, both built again", images_path, labels_path
            )
            return None
        return images, labels

    def value(
        self,
        key: Mapping[str, Any],
        build: Callable[[], Any],
        is_current: Callable[[Any], bool] = lambda value: True,
    ) -> Any:
        """Returns the value of `key`, from disk if it is there and current.

        Args:
          key: JSON values that determine the value.
          build: returns the value, which must be JSON; called where there is none on
            disk, or none that is current.
          is_current: whether a value from disk may still be used.
        """
        path = self._path(key, ".json")
        try:
            value = json.loads(path.read_text("utf-8"))
            if is_current(value):
                return value
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logging.warning("cannot read %s, built again: %s", path, error)
        value = build()
        self._write(path, lambda file: file.write(json.dumps(value).encode("utf-8")))
        return value

    def _path(self, key: Mapping[str, Any], suffix: str) -> pathlib.Path:
        text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
        return self._directory / (
            hashlib.sha256(text.encode("utf-8")).hexdigest()[:32] + suffix
        )

    def _write(self, path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
        try:
            with replacing(path) as file:
                write(file)
        except OSError as error:
            logging.warning("cannot write the cache file %s: %s", path, error)
