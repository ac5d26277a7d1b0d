"""A folder of images: `train|test|val/<class>/*.png|jpg|...`."""

import concurrent.futures
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from afd_tf.base.errors import UserError
from afd_tf.data import image_files
from afd_tf.data.cache import Cache
from afd_tf.data.sampling import permutation

# Files that Windows puts beside images.
_IGNORED_FILES = ("thumbs.db", "desktop.ini")
_THREADS = os.cpu_count() or 1


class FolderSource:
    """Images in one folder per class (the ImageFolder layout).

    Classes are the sorted folder names of `train`. Without a `test` folder, `val`
    is the test split; beside one, it is the validation split. Hidden files are
    ignored, every other file must be an image. The images are grey if all files are.

    Args:
      path: the folder that holds `train` and `test` or `val`.
      image_size: height and width in pixels to crop and resize to; None keeps the
        size, which all images must share.
      cache: keeps the sizes found in the files.

    Raises:
      UserError: the folder has another layout, or a file is no image.
    """

    def __init__(self, path: str, *, image_size: int | None, cache: Cache):
        self.name = f"folder:{path}"
        self._path = path
        self._image_size = image_size
        if not os.path.isdir(path):
            raise UserError(
                f"there is no directory {path}: give an existing one as "
                f"--dataset=folder:PATH."
            )
        folders = _split_folders(path)
        self.class_names = tuple(_subfolders(os.path.join(path, folders["train"])))
        if len(self.class_names) < 2:
            raise UserError(
                f"{path}/{folders['train']} must hold one folder per class, at least "
                f"two; it holds {len(self.class_names)}."
            )
        self._files = {
            split: self._list_files(folder) for split, folder in folders.items()
        }
        self.counts = {split: len(files) for split, files in self._files.items()}
        # Only the heads of the files are read here: anything broken behind them shows
        # when the image is decoded.
        found = cache.value(
            {"scan": [self.fingerprint(split) for split in folders]}, self._scan
        )
        height, width = (
            (image_size, image_size)
            if image_size is not None
            else image_files.common_size(map(tuple, found["sizes"]), self.name)
        )
        self.image_shape = (height, width, found["channels"])

    def fingerprint(self, split: str) -> dict[str, Any]:
        """See `Source`."""
        return {
            "source": self.name,
            "split": split,
            "image_size": self._image_size,
            "class_names": self.class_names,
            "files": [
                [name, label, size, modified]
                for name, label, size, modified in self._files[split]
            ],
        }

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`."""
        images = np.empty([self.counts[split], *self.image_shape], np.uint8)

        def read_one(index: int) -> None:
            path = os.path.join(self._path, self._files[split][index][0])
            image = image_files.read_image(
                path, channels=self.image_shape[2], image_size=self._image_size
            )
            if image.shape != self.image_shape:
                raise UserError(
                    f"{path} has changed while it was being read: start again."
                )
            images[index] = image

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as executor:
            for _ in executor.map(read_one, range(len(images))):
                pass
        return images, self.labels(split)

    def labels(self, split: str) -> np.ndarray:
        """See `Source`."""
        return np.array([label for _, label, _, _ in self._files[split]], np.int32)

    def examples(
        self, split: str, indices: np.ndarray, shuffle_seed: tf.Tensor | None
    ) -> tf.data.Dataset:
        """See `Source`; an undecoded image is its path, so any order costs the same."""
        paths = tf.constant(
            [os.path.join(self._path, file[0]) for file in self._files[split]]
        )
        labels = tf.constant(self.labels(split))
        order = tf.constant(indices)
        if shuffle_seed is not None:
            order = tf.gather(order, permutation(len(indices), shuffle_seed))
        return tf.data.Dataset.from_tensor_slices(order).map(
            lambda index: (tf.gather(paths, index), tf.gather(labels, index))
        )

    def decode(self, undecoded: tf.Tensor) -> tf.Tensor:
        """See `Source`."""
        channels = self.image_shape[2]
        image = tf.numpy_function(
            lambda path: image_files.read_image(path.decode(), channels=channels),
            [undecoded],
            tf.uint8,
        )
        return tf.ensure_shape(image, [None, None, channels])

    def _list_files(self, folder: str) -> list[tuple[str, int, int, int]]:
        """Returns (path, label, bytes, time of change in ns) of each file, sorted.

        The paths are relative to the data set's folder.
        """
        root = os.path.join(self._path, folder)
        unknown = sorted(set(_subfolders(root)) - set(self.class_names))
        if unknown:
            raise UserError(
                f"{root} holds the class {unknown[0]!r}, which the training images "
                f"lack: add training images of it, or remove it."
            )
        files = []
        for label, class_name in enumerate(self.class_names):
            class_folder = os.path.join(root, class_name)
            found = sorted(_files(class_folder)) if os.path.isdir(class_folder) else []
            if not found and (folder == "train" or os.path.isdir(class_folder)):
                raise UserError(
                    f"the class folder {class_folder} is empty: put images into it, or "
                    f"remove it."
                )
            for entry, status in found:
                name = os.path.join(folder, class_name, entry)
                files.append((name, label, status.st_size, status.st_mtime_ns))
        if not files:
            raise UserError(f"{root} holds no images: expected {root}/<class>/*.png.")
        return files

    def _scan(self) -> dict[str, Any]:
        """Reads the head of every file for the sizes and the channels of the images."""
        names = [file[0] for files in self._files.values() for file in files]
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as executor:
            shapes = list(
                executor.map(
                    lambda name: image_files.upright_shape(
                        os.path.join(self._path, name)
                    ),
                    names,
                )
            )
        return {
            "sizes": sorted({shape[:2] for shape in shapes}),
            "channels": max(shape[2] for shape in shapes),
        }


def _split_folders(path: str) -> dict[str, str]:
    """Returns the folder of each split."""
    present = [
        name
        for name in ("train", "test", "val")
        if os.path.isdir(os.path.join(path, name))
    ]
    if "train" not in present:
        raise UserError(
            f"{path} has no folder 'train'; expected train/<class>/*.png and "
            f"test/<class>/*.png."
        )
    if "test" in present:
        folders = {"train": "train", "test": "test"}
        return folders | ({"validation": "val"} if "val" in present else {})
    if "val" in present:
        logging.info("%s has no folder 'test': 'val' is the test split", path)
        return {"train": "train", "test": "val"}
    raise UserError(
        f"{path} has neither a folder 'test' nor a folder 'val': expected "
        f"test/<class>/*.png."
    )


def _subfolders(path: str) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(path) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".")
        )


def _files(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yields name and status of the files in a folder, without ignored ones."""
    with os.scandir(path) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") or entry.name.lower() in _IGNORED_FILES
            if not hidden:
                yield entry.name, entry.stat()
