"""Image files that are read and decoded whenever they are needed."""

import concurrent.futures
import io
import os
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tensorflow as tf
from PIL import Image

from afd_tf.base.files import replacing, writing_to
from afd_tf.data import image_files
from afd_tf.data.cache import Cache
from afd_tf.data.decoding import EncodedImage
from afd_tf.data.image_file import ImageFile
from afd_tf.data.sampling import epoch_order

_THREADS = os.cpu_count() or 1
# Fast; a higher level makes photos hardly smaller.
_COMPRESSION = 1


class EncodedFiles:
    """An `EncodedSource` of files.

    Files that TensorFlow cannot decode, or would decode to other pixels than Pillow,
    are decoded with Pillow once and kept as PNG files.

    Args:
      root: the folder that the paths of the files are relative to.
      files: of each split.
      image_shape: height, width and channels of the images that a network sees.
      cache: keeps the PNG files; where it cannot be written, they are temporary.
      white_level: see `image_files.read_image`.

    Raises:
      UserError: a file that Pillow has to decode is broken, or the PNG file cannot be
        written.
    """

    def __init__(
        self,
        root: str,
        files: Mapping[str, Sequence[ImageFile]],
        *,
        image_shape: tuple[int, int, int],
        cache: Cache,
        white_level: float | None = None,
    ):
        self.image_shape = image_shape
        self.counts = {split: len(own) for split, own in files.items()}
        self._files = files
        self._root = root
        self._cache = cache
        self._lock = threading.Lock()
        self._directory: tempfile.TemporaryDirectory | None = None
        self._white_level = white_level
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as executor:
            self._paths = {
                split: list(executor.map(self._native_path, own))
                for split, own in files.items()
            }
        self._columns = {split: self._make_columns(split) for split in files}

    def labels(self, split: str) -> np.ndarray:
        """See `EncodedSource`."""
        return np.array([file.label for file in self._files[split]], np.int32)

    def encoded_bytes(self, split: str) -> int:
        """See `EncodedSource`."""
        return sum(os.stat(path).st_size for path in self._paths[split])

    def positions(
        self,
        split: str,
        indices: np.ndarray,
        shuffle_seed: tf.Tensor | None,
        repeats: tf.Tensor | None = None,
    ) -> tf.data.Dataset:
        """See `EncodedSource`; any order costs the same."""
        order = indices
        if shuffle_seed is not None:
            order = epoch_order(indices, shuffle_seed, repeats)
        return tf.data.Dataset.from_tensor_slices(order)

    def examples(
        self,
        split: str,
        indices: np.ndarray,
        shuffle_seed: tf.Tensor | None,
        repeats: tf.Tensor | None = None,
    ) -> tf.data.Dataset:
        """See `EncodedSource`; an unread image is its position."""
        return self.positions(split, indices, shuffle_seed, repeats)

    def encoded(self, split: str, unread: tf.Tensor) -> tuple[EncodedImage, tf.Tensor]:
        """See `EncodedSource`."""
        path, orientation, label = (
            tf.gather(column, unread) for column in self._columns[split]
        )
        return EncodedImage(tf.io.read_file(path), orientation), label

    def _make_columns(self, split: str) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns path, orientation and label of all images of a split."""
        # PNG files are upright; `orientation` of their originals is 1.
        orientations = [file.orientation for file in self._files[split]]
        with tf.device("/CPU:0"):
            return (
                # Bytes: names of files need not be UTF-8.
                tf.constant([os.fsencode(path) for path in self._paths[split]]),
                tf.constant(orientations, tf.int32),
                tf.constant(self.labels(split)),
            )

    def _native_path(self, file: ImageFile) -> str:
        """Returns the path of a file, or of its PNG file."""
        path = os.path.join(self._root, file.path)
        if file.native:
            return path
        channels = self.image_shape[2]

        def write_png(opened: BinaryIO) -> None:
            pixels = image_files.read_image(
                path, channels=channels, white_level=self._white_level
            )
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
            encoded = io.BytesIO()
            image.save(encoded, "png", compress_level=_COMPRESSION)
            opened.write(encoded.getvalue())

        key = {"png": file.sha256, "channels": channels, "white": self._white_level}
        copy = self._cache.file(key, ".png", write_png)
        if copy is None:
            copy = self._temporary() / f"{uuid.uuid4().hex}.png"
            with writing_to(copy.parent), replacing(copy) as opened:
                write_png(opened)
        return str(copy)

    def _temporary(self) -> Path:
        """Returns a directory that is removed at the end of the process."""
        with self._lock:
            if self._directory is None:
                with writing_to(Path(tempfile.gettempdir())):
                    self._directory = tempfile.TemporaryDirectory(prefix="afd_tf_")
        return Path(self._directory.name)
