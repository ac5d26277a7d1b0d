"""Turns the pictures of one split into batches, from memory or as a stream."""

import functools
from typing import Protocol

import numpy as np
import tensorflow as tf

from afd_tf.data import augment as augment_lib
from afd_tf.data import shuffle, sources

# Of big pictures, an evaluation sees the middle: 224 of 256 pixels.
_EVALUATION_FRACTION = 0.875

# Randomness is made from (seed, epoch) or (seed, step), told apart by these.
_ORDER_STREAM, _AUGMENT_STREAM = 1, 2


class Reader(Protocol):
    """One split. `Dataset` says what the batches are."""

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int
    ) -> tf.data.Dataset:
        """Returns the batches of global steps `first_step` to the last."""

    def evaluation_batches(self, *, batch_size: int) -> tf.data.Dataset:
        """Returns every picture once, with weights."""

    def labels(self) -> np.ndarray:
        """Returns all labels, int32 [n]."""

    def select(self, indices: np.ndarray) -> "Reader":
        """Returns the reader of the pictures at these (sorted) positions."""

    def mean_and_variance(self, examples: int) -> tuple[list[float], list[float]]:
        """Returns both per channel, of (at most) the pictures asked for."""


class MemoryReader:
    """Pictures of one size that fit into memory.

    The batch at a global step is a pure function of (seed, step).

    Args:
      images: uint8 [n, h, w, c]; may be mapped from a file.
      labels: int32 [n].
      augment: see `augment.augment_batch`.
      padding: see `augment.augment_batch`.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, *, augment: str, padding: str
    ):
        self._images = images
        self._labels = labels
        self._indices = np.arange(len(labels), dtype=np.int64)
        self._augment = functools.partial(
            augment_lib.augment_batch, augment=augment, padding=padding
        )

        @functools.cache
        def tensors() -> tuple[tf.Tensor, tf.Tensor]:
            with tf.device("/CPU:0"):
                return tf.constant(images), tf.constant(labels)

        # One copy, made at the first batch, for all selections of these pictures.
        self._tensors = tensors

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int
    ) -> tf.data.Dataset:
        """See `Reader`."""
        images, labels = self._tensors()
        indices = _constant(self._indices)
        count = len(self._indices)
        steps = -(-count // batch_size)

        def epoch_steps(epoch: tf.Tensor) -> tf.data.Dataset:
            order = shuffle.permutation(count, _seed(seed, epoch, _ORDER_STREAM))
            order = tf.gather(indices, order)
            first = tf.maximum(epoch * steps, first_step)

            def positions(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                start = (step - epoch * steps) * batch_size
                return step, order[start : start + batch_size]

            return tf.data.Dataset.range(first, (epoch + 1) * steps).map(positions)

        def make_batch(step: tf.Tensor, chosen: tf.Tensor) -> dict[str, tf.Tensor]:
            pixels = self._augment(
                tf.gather(images, chosen), _seed(seed, step, _AUGMENT_STREAM)
            )
            return {"image": pixels, "label": tf.gather(labels, chosen)}

        return (
            tf.data.Dataset.range(first_step // steps, epochs)
            .flat_map(epoch_steps)
            .map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        )

    def evaluation_batches(self, *, batch_size: int) -> tf.data.Dataset:
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

        return tf.data.Dataset.range(0, count, batch_size).map(
            make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def labels(self) -> np.ndarray:
        """See `Reader`."""
        return self._labels[self._indices]

    def select(self, indices: np.ndarray) -> "MemoryReader":
        """See `Reader`."""
        selection = object.__new__(MemoryReader)
        selection.__dict__.update(self.__dict__)
        selection._indices = self._indices[indices]
        return selection

    def mean_and_variance(self, examples: int) -> tuple[list[float], list[float]]:
        """See `Reader`; of all pictures, however many are asked for."""
        del examples
        blocks = np.array_split(self._indices, -(-len(self._indices) // 4096))
        return _mean_and_variance(self._images[block] for block in blocks)


class StreamReader:
    """Pictures that do not fit into memory: read, decoded and cut when needed.

    Order and augmentation are made from (seed, epoch) and the picture's position,
    so a run that skips to `first_step` sees what it would have seen. (The shuffle
    buffer of a tfds source also depends on `tf.random.set_seed`.)

    Args:
      source: where the pictures come from.
      split: which of its splits.
      augment: see `augment.augment_batch`.
      padding: see `augment.augment_batch`.
      indices: which pictures of the split; None is all.
    """

    def __init__(
        self,
        source: sources.Source,
        split: str,
        *,
        augment: str,
        padding: str,
        indices: np.ndarray | None = None,
    ):
        if indices is None:
            indices = np.arange(source.counts[split], dtype=np.int64)
        self._source = source
        self._split = split
        self._indices = indices
        self._augment = augment
        self._padding = padding

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int
    ) -> tf.data.Dataset:
        """See `Reader`."""
        count = len(self._indices)
        steps = -(-count // batch_size)

        def decode(position, example):
            image = self._source.decode(example[0])
            if self._augment == "imagenet":
                image = augment_lib.random_resized_crop_flip_one(
                    image,
                    _seed(seed, position, _AUGMENT_STREAM),
                    size=self._source.image_shape[:2],
                )
            else:
                image = self._central_crop(image)
            return (
                position,
                tf.ensure_shape(image, self._source.image_shape),
                example[1],
            )

        def finish(positions, images, labels):
            if self._augment == "cifar":
                images = augment_lib.pad_crop_flip(
                    images,
                    _seed(seed, positions[0], _AUGMENT_STREAM),
                    padding=self._padding,
                )
            return {"image": images, "label": labels}

        def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
            skipped = tf.maximum(first_step - epoch * steps, 0) * batch_size
            return (
                self._source.examples(
                    self._split, self._indices, _seed(seed, epoch, _ORDER_STREAM)
                )
                .skip(skipped)
                .enumerate(epoch * count + skipped)
                .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
                .batch(batch_size)
                .map(finish)
                .prefetch(tf.data.AUTOTUNE)
            )

        return tf.data.Dataset.range(first_step // steps, epochs).flat_map(
            epoch_batches
        )

    def evaluation_batches(self, *, batch_size: int) -> tf.data.Dataset:
        """See `Reader`."""

        def pad(images, labels):
            missing = batch_size - tf.shape(labels)[0]
            batch = {
                "image": tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]]),
                "label": tf.pad(labels, [[0, missing]]),
                "weight": tf.pad(tf.ones_like(labels, tf.float32), [[0, missing]]),
            }
            return _with_batch_size(batch, batch_size)

        return self._cropped(self._indices).batch(batch_size).map(pad)

    def labels(self) -> np.ndarray:
        """See `Reader`."""
        return self._source.labels(self._split)[self._indices]

    def select(self, indices: np.ndarray) -> "StreamReader":
        """See `Reader`."""
        return StreamReader(
            self._source,
            self._split,
            augment=self._augment,
            padding=self._padding,
            indices=self._indices[indices],
        )

    def mean_and_variance(self, examples: int) -> tuple[list[float], list[float]]:
        """See `Reader`; of pictures evenly spread over the split."""
        step = -(-len(self._indices) // examples)
        images = self._cropped(self._indices[::step]).map(lambda image, _: image)
        return _mean_and_variance(images.batch(256).as_numpy_iterator())

    def _cropped(self, indices: np.ndarray) -> tf.data.Dataset:
        """Returns (image, label) of these pictures, not augmented."""

        def decode(undecoded, label):
            image = self._central_crop(self._source.decode(undecoded))
            return tf.ensure_shape(image, self._source.image_shape), label

        return self._source.examples(self._split, indices, None).map(
            decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def _central_crop(self, image: tf.Tensor) -> tf.Tensor:
        fraction = _EVALUATION_FRACTION if self._augment == "imagenet" else 1.0
        return augment_lib.central_crop(
            image, size=self._source.image_shape[:2], fraction=fraction
        )


def _seed(seed: int, number: tf.Tensor, stream: int) -> tf.Tensor:
    """Returns the int64 [2] seed of an epoch, a step or a picture."""
    pair = tf.stack([tf.constant(seed, tf.int64), tf.cast(number, tf.int64)])
    stream = tf.constant(stream, tf.int64)  # an int32 would cut the result to 32 bits
    return tf.random.experimental.stateless_fold_in(pair, stream, alg="philox")


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


def _mean_and_variance(batches) -> tuple[list[float], list[float]]:
    """Returns both per channel, from exact sums over uint8 [n, h, w, c] batches."""
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
