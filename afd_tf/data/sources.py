"""Sources of labelled images: `digits`, `folder:PATH` or any tfds name."""

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.data.cache import Cache
from afd_tf.data.digits_source import DigitsSource

FOLDER_PREFIX = "folder:"


class Source(Protocol):
    """Labelled images of one size, in named splits.

    Attributes:
      name: the data set's full name.
      class_names: one name per label.
      image_shape: height, width and channels of the images that `read` returns.
      counts: number of images per split: "train", "test" and perhaps "validation".
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    counts: Mapping[str, int]

    def fingerprint(self, split: str) -> dict[str, Any]:
        """Returns JSON values that change whenever the images of a split change."""

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Decodes a whole split.

        Returns:
          images, uint8 [n, h, w, c], and their labels, int32 [n].

        Raises:
          UserError: an image cannot be decoded, or has no label.
        """

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, int32 [n], without decoding the images."""

    def examples(
        self, split: str, indices: np.ndarray, shuffle_seed: tf.Tensor | None
    ) -> tf.data.Dataset:
        """Returns the images at `indices` of a split, not decoded yet.

        Args:
          split: the name of the split.
          indices: positions in the split, int64 [n], sorted.
          shuffle_seed: int64 [2], determines the order; None keeps it.

        Returns:
          elements (a scalar for `decode`, int32 label).
        """

    def decode(self, undecoded: tf.Tensor) -> tf.Tensor:
        """Decodes one image of `examples`.

        Returns:
          uint8 [h, w, c], in the image's own height and width.
        """


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
    """Opens the source that `name` stands for.

    Args:
      name: see `load`, as are all arguments but the last.
      data_dir: for tfds names.
      download: for tfds names.
      image_size: for all.
      train_split: for tfds names.
      test_split: for tfds names.
      cache: keeps facts about the files between runs.

    Raises:
      UserError: there is no such data set, or it cannot be used.
    """
    own_splits = name == "digits" or name.startswith(FOLDER_PREFIX)
    if own_splits and (train_split or test_split):
        raise UserError(
            f"--train_split and --test_split are for tfds names; {name} has splits of "
            f"its own: leave them out."
        )
    if name == "digits":
        return DigitsSource(image_size=image_size)
    if name.startswith(FOLDER_PREFIX):
        from afd_tf.data.folder_source import FolderSource

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
