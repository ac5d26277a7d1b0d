"""Decoded images and computed values, kept on disk between runs.

A cache file is named after everything that determines its content, is written whole
or not at all, and is built again when it cannot be read. A cache that cannot be
written costs a warning, never a run. It is bounded: after each file that is written,
those that were not used for longest are removed, but never one that this process uses.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from afd_tf.base.files import UNFINISHED, replacing

# Part of every key: to be raised when the decoding, a key or a file changes.
_FORMAT = 2

DEFAULT_GIGABYTES = 20.0

# The names of the cache's own files: other files in its directory are left alone.
_OWN_NAME = re.compile(r"[0-9a-f]{32}\.")
_ABANDONED_SECONDS = 24 * 3600.0


class Cache:
    """Results of expensive functions, in one directory.

    Args:
      directory: the directory; None is `$XDG_CACHE_HOME/afd_tf`, or
        `~/.cache/afd_tf`.
      gigabytes: the bound of the files' size, in 10^9 bytes. It is exceeded only by
        what this process uses.
    """

    def __init__(
        self,
        directory: str | os.PathLike | None = None,
        gigabytes: float = DEFAULT_GIGABYTES,
    ):
        if directory is None:
            base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
            directory = pathlib.Path(base) / "afd_tf"
        self._directory = pathlib.Path(directory).expanduser()
        self._bytes = gigabytes * 1e9
        self._used: set[str] = set()
        self._total: float | None = None  # of all processes' files, when last counted

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
        self._touch(images_path)
        self._touch(labels_path)
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
                self._touch(path)
                return value
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logging.warning("cannot read %s, built again: %s", path, error)
        value = build()
        self.replace_value(key, value)
        return value

    def replace_value(self, key: Mapping[str, Any], value: Any) -> None:
        """Keeps a value in the place of an earlier one of the same key.

        Args:
          key: see `value`.
          value: JSON.
        """
        content = json.dumps(value).encode("utf-8")
        self._write(self._path(key, ".json"), lambda file: file.write(content))

    def file(
        self,
        key: Mapping[str, Any],
        suffix: str,
        write: Callable[[BinaryIO], Any],
        *,
        again: bool = False,
    ) -> pathlib.Path | None:
        """Returns the file of `key`, which is written if it is not there.

        Args:
          key: JSON values that determine the content.
          suffix: of its name, with a dot.
          write: writes the content to an open binary file.
          again: whether to write it even if it is there.

        Returns:
          its path; None if it cannot be written.
        """
        path = self._path(key, suffix)
        if again or not path.is_file():
            self._write(path, write)
        self._touch(path)
        return path if path.is_file() else None

    def _path(self, key: Mapping[str, Any], suffix: str) -> pathlib.Path:
        text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
        return self._directory / (
            hashlib.sha256(text.encode("utf-8")).hexdigest()[:32] + suffix
        )

    def _write(self, path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
        try:
            with replacing(path) as file:
                write(file)
            written = path.stat().st_size
        except OSError as error:
            logging.warning("cannot write the cache file %s: %s", path, error)
            return
        self._used.add(path.name)
        if self._total is not None:
            self._total += written
        if self._total is None or self._total > self._bytes:
            self._remove_unused()

    def _touch(self, path: pathlib.Path) -> None:
        """Notes that a file is in use: its time of change is that of its last use."""
        self._used.add(path.name)
        with contextlib.suppress(OSError):
            os.utime(path)

    def _remove_unused(self) -> None:
        """Removes the files that were not used for longest, down to the bound."""
        files = []
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if _OWN_NAME.match(entry.name):
                    # Another process may remove it now.
                    with contextlib.suppress(OSError):
                        status = entry.stat()
                        files.append((status.st_mtime, status.st_size, entry.name))
        total = sum(size for _, size, _ in files)
        for modified, size, name in sorted(files):
            unfinished = name.endswith(UNFINISHED)
            abandoned = unfinished and time.time() - modified > _ABANDONED_SECONDS
            unused = not unfinished and name not in self._used
            if abandoned or (unused and total > self._bytes):
                with contextlib.suppress(OSError):
                    (self._directory / name).unlink()
                    total -= size
        self._total = total
