"""Where pictures come from: `digits`, `folder:PATH` or any tfds name."""

import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from afd_tf.data.cache import Cache
from afd_tf.errors import UserError

FOLDER_PREFIX = "folder:"


class Source(Protocol):
    """Labelled pictures of one size, in named splits.

    Attributes:
      name: the data set's full name.
      class_names: one name per label.
      image_shape: height, width and channels of what is delivered.
      counts: pictures per split: "train", "test" and perhaps "validation".
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    counts: Mapping[str, int]

    def fingerprint(self, split: str) -> dict[str, Any]:
        """Returns all that determines the pictures of a split, as JSON."""

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Decodes a whole split: uint8 [n, h, w, c], int32 [n]."""

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, int32 [n], without decoding pictures."""

    def examples(
        self, split: str, indices: np.ndarray, shuffle_seed: tf.Tensor | None
    ) -> tf.data.Dataset:
        """Returns (undecoded picture, int32 label) of the pictures at `indices`.

        Args:
          split: the split.
          indices: int64 [n], sorted.
          shuffle_seed: int64 [2]; None keeps the order.
        """

    def decode(self, undecoded: tf.Tensor) -> tf.Tensor:
        """Decodes one picture of `examples`: uint8 [h, w, c], its own size."""


def open_source(
    name: str,
    *,
    data_dir: str | None,
    download: bool,
    image_size: int | None,
    train_split: str | None,
    test_split: str | None,
    cache: Cache,
) -> Source:
    """Finds the source that `name` stands for; the arguments are those of `load`.

    Raises:
      UserError: there is no such data set, or it cannot be used.
    """
    own_splits = name == "digits" or name.startswith(FOLDER_PREFIX)
    if own_splits and (train_split or test_split):
        raise UserError(
            f"--train_split and --test_split are for tfds names; {name} has its own."
        )
    if name == "digits":
        return DigitsSource(image_size=image_size)
    if name.startswith(FOLDER_PREFIX):
        from afd_tf.data.folder import FolderSource

        path = os.path.abspath(os.path.expanduser(name.removeprefix(FOLDER_PREFIX)))
        return FolderSource(path, image_size=image_size, cache=cache)
    from afd_tf.data.tfds_source import TfdsSource

    return TfdsSource(
        name,
        data_dir=data_dir,
        download=download,
        image_size=image_size,
        train_split=train_split,
        test_split=test_split,
        cache=cache,
    )


def stratified_choice(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Chooses `count` positions, each class in proportion, always the same ones.

    Args:
      labels: int [n].
      count: how many to choose, 0..n.
      seed: another seed makes another choice.

    Returns:
      int64 [count], sorted.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    order = generator.permutation(len(labels))
    # Pictures of a class side by side, in random order, classes ascending: every
    # n/count-th of them gives each class its share to within one picture.
    order = order[np.argsort(labels[order], kind="stable")]
    if count == 0:
        return np.zeros([0], np.int64)
    chosen = (np.arange(count) * len(labels) + len(labels) // 2) // count
    return np.sort(order[chosen])


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, in a fixed 80/20 split.

    It ships with scikit-learn, so it needs no network. Its values 0..16 are scaled
    to 0..255.

    Args:
      image_size: pixels to resize to; None keeps 8.
    """

    _TEST_EXAMPLES = 360
    _EXAMPLES = 1797

    def __init__(self, *, image_size: int | None = None):
        self.name = "digits"
        self.class_names = tuple(str(digit) for digit in range(10))
        self._image_size = image_size
        size = image_size or 8
        self.image_shape = (size, size, 1)
        self.counts = {
            "train": self._EXAMPLES - self._TEST_EXAMPLES,
            "test": self._TEST_EXAMPLES,
        }

    def fingerprint(self, split: str) -> dict[str, Any]:
        """See `Source`."""
        return {
            "source": "digits",
            "version": importlib.metadata.version("scikit-learn"),
            "split": split,
            "image_size": self._image_size,
        }

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`."""
        from sklearn import datasets

        digits = datasets.load_digits()
        labels = digits.target.astype(np.int32)
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        test = np.zeros(len(labels), bool)
        test[stratified_choice(labels, self._TEST_EXAMPLES, seed=0)] = True
        chosen = test if split == "test" else ~test
        images, labels = images[chosen], labels[chosen]
        if self._image_size is not None:
            from afd_tf.data import augment

            size = (self._image_size, self._image_size)
            resized = tf.image.resize(images, size, antialias=True)
            images = augment.to_uint8(resized).numpy()
        return images, labels
