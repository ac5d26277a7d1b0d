"""Turns the pictures of one split into batches, from memory or as a stream."""

import dataclasses
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


# A whole number, in Python, NumPy or TensorFlow.
Integer = int | np.ndarray | tf.Tensor


@dataclasses.dataclass(frozen=True)
class Share:
    """What one process takes of every batch: an element for each of its replicas.

    Replica r of R takes the pictures r * B // R to (r + 1) * B // R of B.

    Attributes:
      replicas: R, of all processes together.
      own: those of this process.
    """

    replicas: int
    own: range

    def bounds(self, size: Integer) -> tuple[Integer, Integer]:
        """Returns where this process' pictures of a batch of `size` begin and end."""
        return (
            self.own.start * size // self.replicas,
            self.own.stop * size // self.replicas,
        )

    def holds(self, place: Integer, size: Integer) -> Integer:
        """Returns whether a place in a batch of `size` is this process', as bool."""
        start, stop = self.bounds(size)
        return (start <= place) & (place < stop)

    def deal(
        self, batches: tf.data.Dataset, first: Integer = 0, size: Integer | None = None
    ) -> tf.data.Dataset:
        """Cuts every batch into one element for each replica of this process.

        Args:
          batches: of pictures in a row, among them all of this process.
          first: the place of the first one in the whole batch, int64.
          size: of the whole batch, int64; None where `batches` are whole.
        """
        if self.replicas == 1:
            return batches

        def cut(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
            whole = tf.shape(batch["label"], tf.int64)[0] if size is None else size

            def one(replica: tf.Tensor) -> dict[str, tf.Tensor]:
                start = replica * whole // self.replicas - first
                stop = (replica + 1) * whole // self.replicas - first
                return {name: values[start:stop] for name, values in batch.items()}

            return tf.data.Dataset.range(self.own.start, self.own.stop).map(one)

        return batches.flat_map(cut)


class Reader(Protocol):
    """One split. `Dataset` says what the batches are."""

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int, share: Share
    ) -> tf.data.Dataset:
        """Returns the share of the batches of global steps `first_step` to the last."""

    def evaluation_batches(self, *, batch_size: int, share: Share) -> tf.data.Dataset:
        """Returns the share of batches that hold every picture once, with weights."""

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
        self, *, batch_size: int, seed: int, epochs: int, first_step: int, share: Share
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

        return share.deal(
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

        return share.deal(
            tf.data.Dataset.range(0, count, batch_size).map(
                make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
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

    Order and augmentation are made from (seed, epoch) and the picture's place in it,
    so a run that skips to `first_step` sees what it would have seen.

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
        self, *, batch_size: int, seed: int, epochs: int, first_step: int, share: Share
    ) -> tf.data.Dataset:
        """See `Reader`; only the share is decoded."""
        count = len(self._indices)
        steps = -(-count // batch_size)

        def size(step: tf.Tensor) -> tf.Tensor:
            return tf.minimum(count - step * batch_size, batch_size)

        def own_size(step: tf.Tensor) -> tf.Tensor:
            start, stop = share.bounds(size(step))
            return stop - start

        def one_batch(step: tf.Tensor, pictures: tf.data.Dataset) -> tf.data.Dataset:
            first, _ = share.bounds(size(step))
            batch = pictures.map(lambda place, picture: picture).batch(batch_size)
            return share.deal(batch, first, size(step))

        def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
            def decode(place, example):
                seed_of_picture = _seed(seed, epoch * count + place, _AUGMENT_STREAM)
                image = self._augmented(
                    self._source.decode(example[0]), seed_of_picture
                )
                return place, {"image": image, "label": example[1]}

            skipped = tf.maximum(first_step - epoch * steps, 0) * batch_size
            examples = self._source.examples(
                self._split, self._indices, _seed(seed, epoch, _ORDER_STREAM)
            )
            return (
                examples.skip(skipped)
                .enumerate(skipped)
                .filter(
                    lambda place, _: share.holds(
                        place % batch_size, size(place // batch_size)
                    )
                )
                .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
                # `batch` knows one size; in the last batch, which is smaller, a share
                # may be larger than in the others.
                .group_by_window(
                    lambda place, _: place // batch_size,
                    one_batch,
                    window_size_func=own_size,
                )
                .prefetch(tf.data.AUTOTUNE)
            )

        return tf.data.Dataset.range(first_step // steps, epochs).flat_map(
            epoch_batches
        )

    def evaluation_batches(self, *, batch_size: int, share: Share) -> tf.data.Dataset:
        """See `Reader`; only the share is decoded."""
        count = len(self._indices)
        start, stop = share.bounds(batch_size)
        places = np.arange(-(-count // batch_size) * batch_size)
        places = places[share.holds(places % batch_size, batch_size)]

        def with_weight(image, label):
            return {"image": image, "label": label, "weight": tf.constant(1.0)}

        # They all come last.
        fillers = tf.data.Dataset.from_tensors(
            {
                "image": tf.zeros(self._source.image_shape, tf.uint8),
                "label": tf.constant(0, tf.int32),
                "weight": tf.constant(0.0),
            }
        ).repeat(np.count_nonzero(places >= count))
        batches = (
            self._cropped(self._indices[places[places < count]])
            .map(with_weight)
            .concatenate(fillers)
            .batch(stop - start, drop_remainder=True)
        )
        return share.deal(batches, start, batch_size)

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

    def _augmented(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns a decoded picture as a training step sees it."""
        shape = self._source.image_shape
        if self._augment == "imagenet":
            image = augment_lib.random_resized_crop_flip_one(
                image, seed, size=shape[:2]
            )
        else:
            image = self._central_crop(image)
        image = tf.ensure_shape(image, shape)
        if self._augment == "cifar":
            image = augment_lib.pad_crop_flip(
                image[tf.newaxis], seed, padding=self._padding
            )[0]
        return image

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
