"""Readers make batches of the images of one split; here, of images in memory."""

import copy
import functools
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import tensorflow as tf

from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.data.sampling import (
    augmentation_seed,
    epoch_order,
    mixing_seed,
    order_seed,
)
from afd_tf.data.sharding import Share


class Reader(Protocol):
    """The images of one split; `Dataset` documents the batches."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int, share: Share
    ) -> tf.data.Dataset:
        """Returns the training batches from the global step `first_step` to the last.

        Of each batch only the images of `share`, one element for each of its replicas.
        """

    def evaluation_batches(self, *, batch_size: int, share: Share) -> tf.data.Dataset:
        """Returns batches that hold every image once, with weights.

        Of each batch only the images of `share`, one element for each of its replicas.
        """

    def labels(self) -> np.ndarray:
        """Returns all labels, int32 [n]."""

    def select(self, indices: np.ndarray) -> "Reader":
        """Returns a reader of some of these images.

        Args:
          indices: their positions, int64 [n], sorted.
        """

    def mean_and_variance(self, examples: int) -> tuple[list[float], list[float]]:
        """Returns mean and variance of the raw pixels 0..255, one per channel each.

        Args:
          examples: the number of images that suffice where many cost time.
        """


class MemoryReader:
    """Images of one size that fit into memory.

    The batch at a global step is a pure function of (seed, step).

    Args:
      images: uint8 [n, h, w, c]; may be mapped from a file.
      labels: int32 [n].
      recipe: makes training batches of them.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, recipe: ImageRecipe):
        self._images = images
        self._labels = labels
        self._indices = np.arange(len(labels), dtype=np.int64)
        self._recipe = recipe

        @functools.cache
        def tensors() -> tuple[tf.Tensor, tf.Tensor]:
            with tf.device("/CPU:0"):
                return tf.constant(images), tf.constant(labels)

        # One copy, made at the first batch, for all selections of these images.
        self._tensors = tensors

    def __len__(self) -> int:
        """See `Reader`."""
        return len(self._indices)

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int, share: Share
    ) -> tf.data.Dataset:
        """See `Reader`."""
        images, labels = self._tensors()
        indices = _constant(self._indices)
        count = len(self._indices)
        steps = -(-count // batch_size)
        repeats = self._recipe.repeats(self.labels, seed)

        def epoch_steps(epoch: tf.Tensor) -> tf.data.Dataset:
            order = epoch_order(indices, order_seed(seed, epoch), repeats(epoch))
            first = tf.maximum(epoch * steps, first_step)

            def positions(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                start = (step - epoch * steps) * batch_size
                return step, order[start : start + batch_size]

            return tf.data.Dataset.range(first, (epoch + 1) * steps).map(positions)

        def make_batch(step: tf.Tensor, chosen: tf.Tensor) -> dict[str, tf.Tensor]:
            pixels = self._recipe.augment_batch(
                tf.gather(images, chosen), augmentation_seed(seed, step)
            )
            batch = {"image": pixels, "label": tf.gather(labels, chosen)}
            return self._recipe.mix(batch, mixing_seed(seed, step))

        return share.split_per_replica(
            tf.data.Dataset.range(first_step // steps, epochs)
            .flat_map(epoch_steps)
            .map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        )

    def evaluation_batches(self, *, batch_size: int, share: Share) -> tf.data.Dataset:
        """See `Reader`."""
        images, labels = self._tensors()
        indices = _constant(self._indices)
        count = len(self._indices)

        def make_batch(start: tf.Tensor) -> dict[str, tf.Tensor]:
            positions = tf.range(start, start + batch_size)
            chosen = tf.gather(indices, tf.minimum(positions, count - 1))
            weight = tf.cast(positions < count, tf.float32)
            batch = {
                "image": tf.gather(images, chosen),
                "label": tf.gather(labels, chosen),
                "weight": weight,
            }
            return _with_batch_size(batch, batch_size)

        return share.split_per_replica(
            tf.data.Dataset.range(0, count, batch_size).map(
                make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
        )

    def labels(self) -> np.ndarray:
        """See `Reader`."""
        return self._labels[self._indices]

    def select(self, indices: np.ndarray) -> "MemoryReader":
        """See `Reader`."""
        selection = copy.copy(self)
        selection._indices = self._indices[indices]
        return selection

    def mean_and_variance(self, examples: int) -> tuple[list[float], list[float]]:
        """See `Reader`; all images are counted, since they are in memory."""
        del examples
        blocks = np.array_split(self._indices, -(-len(self._indices) // 4096))
        return channel_statistics(self._images[block] for block in blocks)


def _constant(values: np.ndarray) -> tf.Tensor:
    with tf.device("/CPU:0"):
        return tf.constant(values)


def _with_batch_size(
    batch: dict[str, tf.Tensor], batch_size: int
) -> dict[str, tf.Tensor]:
    """Tells TensorFlow the size that it cannot infer."""
    return {
        name: tf.ensure_shape(values, [batch_size, *values.shape[1:]])
        for name, values in batch.items()
    }


def channel_statistics(
    batches: Iterable[np.ndarray],
) -> tuple[list[float], list[float]]:
    """Returns mean and variance of pixels, one per channel each, from exact sums.

    Args:
      batches: images, uint8 [n, h, w, c], at least one.
    """
    count, total, squares = 0, 0, 0
    for images in batches:
        pixels = images.reshape(-1, images.shape[-1])
        count += len(pixels)
        # int64 sums of 8-bit values and their squares are exact.
        total += pixels.sum(axis=0, dtype=np.int64)
        squares += np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    mean = total / count
    variance = squares / count - mean**2
    return mean.tolist(), variance.tolist()
