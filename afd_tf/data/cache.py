"""Decoded pictures and computed values, kept on disk between runs.

A cache file is named after everything that determines its content, is written
under a temporary name and then renamed, and is rebuilt when it cannot be read. A
cache that cannot be written costs a log line, never a run.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

# Part of every key: to be raised when the decoding or the layout changes.
_FORMAT = 1


class Cache:
    """Results of expensive functions, in one directory.

    Args:
      directory: where to keep them; None is `$XDG_CACHE_HOME/afd_tf`, or
        `~/.cache/afd_tf`.
    """

    def __init__(self, directory: str | os.PathLike | None = None):
        if directory is None:
            base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
            directory = pathlib.Path(base) / "afd_tf"
        self._directory = pathlib.Path(directory).expanduser()

    def pictures(
        self,
        key: Mapping[str, Any],
        build: Callable[[], tuple[np.ndarray, np.ndarray]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pictures and labels of `key`, from disk if they are there.

        Args:
          key: what determines them; JSON.
          build: makes them: uint8 [n, h, w, c] and int32 [n].

        Returns:
          images and labels; read from disk, the images are mapped, not loaded.
        """
        paths = self._path(key, ".images.npy"), self._path(key, ".labels.npy")
        found = self._read_pictures(*paths)
        if found is None:
            built = build()
            for path, array in zip(paths, built, strict=True):
                self._write(path, lambda file, array=array: np.save(file, array))
            # Mapped pages, unlike built arrays, can be dropped when memory is short.
            found = self._read_pictures(*paths) or built
        return found

    def _read_pictures(
        self, images_path: pathlib.Path, labels_path: pathlib.Path
    ) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            images = np.load(images_path, mmap_mode="r")
            labels = np.load(labels_path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            logging.warning("cannot use %s, rebuilt: %s", images_path, error)
            return None
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            logging.warning("%s and its labels do not agree: rebuilt", images_path)
            return None
        return images, labels

    def value(
        self,
        key: Mapping[str, Any],
        build: Callable[[], Any],
        is_current: Callable[[Any], bool] = lambda value: True,
    ) -> Any:
        """Returns the JSON value of `key`, from disk if it is there and current."""
        path = self._path(key, ".json")
        try:
            value = json.loads(path.read_text("utf-8"))
            if is_current(value):
                return value
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logging.warning("cannot use %s, rebuilt: %s", path, error)
        value = build()
        self._write(path, lambda file: file.write(json.dumps(value).encode("utf-8")))
        return value

    def _path(self, key: Mapping[str, Any], suffix: str) -> pathlib.Path:
        text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
        return self._directory / (
            hashlib.sha256(text.encode("utf-8")).hexdigest()[:32] + suffix
        )

    def _write(self, path: pathlib.Path, write: Callable[[Any], Any]) -> None:
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                temporary = file.name
                write(file)
            os.replace(temporary, path)
        except OSError as error:
            logging.warning("cannot write the cache file %s: %s", path, error)
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
