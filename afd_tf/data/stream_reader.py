"""A reader that makes batches of images that do not fit into memory."""

import numpy as np
import tensorflow as tf

from afd_tf.data.augment import (
    central_crop,
    pad_crop_flip,
    random_resized_crop_flip_one,
)
from afd_tf.data.readers import channel_statistics
from afd_tf.data.sampling import augmentation_seed, order_seed
from afd_tf.data.sharding import Share
from afd_tf.data.sources import Source

# The part of a large image's height and width that an evaluation sees: 224 of 256.
_EVALUATION_FRACTION = 0.875


class StreamReader:
    """Images that do not fit into memory: read, decoded and cropped when needed.

    Order and augmentation are made from the seed, the epoch and the image's place in
    it, so that a run that begins at `first_step` sees the images it would have seen.

    Args:
      source: the images.
      split: the source's split to read.
      augment: see `augment_batch`; the image is augmented by itself.
      padding: see `augment_batch`.
      indices: positions in the split of the images to read, int64 [n], sorted; None
        is all.
    """

    def __init__(
        self,
        source: Source,
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

    def __len__(self) -> int:
        """See `Reader`."""
        return len(self._indices)

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int, share: Share
    ) -> tf.data.Dataset:
        """See `Reader`; only images of the share are decoded."""
        count = len(self._indices)
        steps = -(-count // batch_size)

        def size(step: tf.Tensor) -> tf.Tensor:
            return tf.minimum(count - step * batch_size, batch_size)

        def own_size(step: tf.Tensor) -> tf.Tensor:
            start, stop = share.bounds(size(step))
            return stop - start

        def one_batch(step: tf.Tensor, examples: tf.data.Dataset) -> tf.data.Dataset:
            first, _ = share.bounds(size(step))
            batch = examples.map(lambda place, example: example).batch(batch_size)
            return share.split_per_replica(batch, first, size(step))

        def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
            def decode(place, example):
                undecoded, label = example
                image = self._augmented(
                    self._source.decode(undecoded),
                    augmentation_seed(seed, epoch * count + place),
                )
                return place, {"image": image, "label": label}

            skipped = tf.maximum(first_step - epoch * steps, 0) * batch_size
            examples = self._source.examples(
                self._split, self._indices, order_seed(seed, epoch)
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
                # Not `batch`, which makes batches of one size: in the last batch,
                # which is smaller, a share may be larger than in the others.
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
        """See `Reader`; only images of the share are decoded."""
        count = len(self._indices)
        start, stop = share.bounds(batch_size)
        places = np.arange(-(-count // batch_size) * batch_size)
        places = places[share.holds(places % batch_size, batch_size)]

        def with_weight(image, label):
            return {"image": image, "label": label, "weight": tf.constant(1.0)}

        # They fill the last batch up, behind its images.
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
        return share.split_per_replica(batches, start, batch_size)

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
        """See `Reader`; the images are spread evenly over the split."""
        step = -(-len(self._indices) // examples)
        images = self._cropped(self._indices[::step]).map(lambda image, _: image)
        return channel_statistics(images.batch(256).as_numpy_iterator())

    def _cropped(self, indices: np.ndarray) -> tf.data.Dataset:
        """Returns (uint8 [h, w, c], int32 label) of images, not augmented."""

        def decode(undecoded, label):
            image = self._central_crop(self._source.decode(undecoded))
            return tf.ensure_shape(image, self._source.image_shape), label

        return self._source.examples(self._split, indices, None).map(
            decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def _augmented(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns a decoded image as a training step sees it."""
        shape = self._source.image_shape
        if self._augment == "imagenet":
            image = random_resized_crop_flip_one(image, seed, size=shape[:2])
        else:
            image = self._central_crop(image)
        image = tf.ensure_shape(image, shape)
        if self._augment == "cifar":
            image = pad_crop_flip(image[tf.newaxis], seed, padding=self._padding)[0]
        return image

    def _central_crop(self, image: tf.Tensor) -> tf.Tensor:
        fraction = _EVALUATION_FRACTION if self._augment == "imagenet" else 1.0
        return central_crop(image, size=self._source.image_shape[:2], fraction=fraction)
