"""Encoded images that are read once and kept in memory."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import tensorflow as tf

from afd_tf.data.decoding import EncodedImage


class EncodedSource(Protocol):
    """Images in files, to be decoded whenever they are needed.

    Attributes:
      image_shape: height, width and channels of the images that a network sees.
      counts: number of images per split.
    """

    image_shape: tuple[int, int, int]
    counts: Mapping[str, int]

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, int32 [n], without decoding the images."""

    def encoded_bytes(self, split: str) -> int:
        """Returns about how many bytes the files of a split have, never too few."""

    def positions(
        self,
        split: str,
        indices: np.ndarray,
        shuffle_seed: tf.Tensor | None,
        repeats: tf.Tensor | None = None,
    ) -> tf.data.Dataset:
        """Returns positions in a split, int64 scalars, in the order of `examples`.

        Args:
          split: the name of the split.
          indices: positions in the split, int64 [n], sorted.
          shuffle_seed: int64 [2], determines the order; None keeps it.
          repeats: how often each of them comes if they are shuffled, int64 [n]; None
            is once.
        """

    def examples(
        self,
        split: str,
        indices: np.ndarray,
        shuffle_seed: tf.Tensor | None,
        repeats: tf.Tensor | None = None,
    ) -> tf.data.Dataset:
        """Returns the images at `indices` of a split, perhaps not read yet.

        Args:
          split: see `positions`, as are all arguments.
          indices: positions in the split.
          shuffle_seed: determines the order.
          repeats: how often each comes.

        Returns:
          elements for `encoded`.
        """

    def encoded(self, split: str, unread: tf.Tensor) -> tuple[EncodedImage, tf.Tensor]:
        """Reads one image of `examples`.

        Returns:
          the image and its label, int32 scalar.
        """


class EncodedMemory:
    """An `EncodedSource` that keeps the files of another one in memory.

    A split is read when its first batch is made. The order of its images is the other
    source's.

    Args:
      source: the other one.
    """

    def __init__(self, source: EncodedSource):
        self.image_shape = source.image_shape
        self.counts = source.counts
        self._source = source
        self._splits: dict[str, tuple[EncodedImage, tf.Tensor]] = {}

    def labels(self, split: str) -> np.ndarray:
        """See `EncodedSource`."""
        return self._source.labels(split)

    def encoded_bytes(self, split: str) -> int:
        """See `EncodedSource`."""
        return self._source.encoded_bytes(split)

    def positions(
        self,
        split: str,
        indices: np.ndarray,
        shuffle_seed: tf.Tensor | None,
        repeats: tf.Tensor | None = None,
    ) -> tf.data.Dataset:
        """See `EncodedSource`."""
        return self._source.positions(split, indices, shuffle_seed, repeats)

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
        (contents, orientations), labels = self._read(split)
        image = EncodedImage(
            tf.gather(contents, unread), tf.gather(orientations, unread)
        )
        return image, tf.gather(labels, unread)

    def _read(self, split: str) -> tuple[EncodedImage, tf.Tensor]:
        """Returns all images and labels of a split, string, int32 and int32 [n]."""
        if split not in self._splits:
            count = self.counts[split]
            # Outside of the graph of the batches, which is perhaps being built.
            with tf.init_scope(), tf.device("/CPU:0"):
                examples = self._source.examples(split, np.arange(count), None)
                self._splits[split] = (
                    examples.map(
                        lambda unread: self._source.encoded(split, unread),
                        num_parallel_calls=tf.data.AUTOTUNE,
                        deterministic=True,
                    )
                    .batch(count, drop_remainder=True)
                    .get_single_element()
                )
        return self._splits[split]
