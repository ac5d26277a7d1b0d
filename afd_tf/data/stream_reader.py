"""A reader that makes batches of images that are decoded whenever they are needed."""

import numpy as np
import tensorflow as tf

from afd_tf.data.augment import central_crop, pad_crop_flip
from afd_tf.data.decoding import (
    EncodedImage,
    decode_upright,
    random_resized_crop_flip_encoded,
)
from afd_tf.data.encoded_memory import EncodedSource
from afd_tf.data.readers import channel_statistics
from afd_tf.data.sampling import augmentation_seed, order_seed
from afd_tf.data.sharding import Share

# 224 of 256.
_EVALUATION_FRACTION = 0.875


class StreamReader:
    """Images that are read, decoded and cropped whenever they are needed.

    Order and augmentation are made from the seed, the epoch and the image's place in
    it, so that a run that begins at `first_step` sees the images it would have seen.

    Args:
      source: the images, in files or in memory.
      split: the source's split to read.
      augment: see `augment_batch`; the image is augmented by itself.
      padding: see `augment_batch`.
      indices: positions in the split of the images to read, int64 [n], sorted; None
        is all.
      evaluation_fraction: the part of an image's height and width that an evaluation
        sees, 0..1; None is 0.875 for "imagenet" ("resize to 256, crop 224"), else 1.
    """

    def __init__(
        self,
        source: EncodedSource,
        split: str,
        *,
        augment: str,
        padding: str,
        indices: np.ndarray | None = None,
        evaluation_fraction: float | None = None,
    ):
        if indices is None:
            indices = np.arange(source.counts[split], dtype=np.int64)
        self._source = source
        self._split = split
        self._indices = indices
        self._augment = augment
        self._padding = padding
        if evaluation_fraction is None:
            evaluation_fraction = _EVALUATION_FRACTION if augment == "imagenet" else 1.0
        self._evaluation_fraction = evaluation_fraction

    def __len__(self) -> int:
        """See `Reader`."""
        return len(self._indices)

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int, share: Share
    ) -> tf.data.Dataset:
        """See `Reader`; only images of the share are read and decoded."""
        count = len(self._indices)
        steps = -(-count // batch_size)

        def size(step: tf.Tensor) -> tf.Tensor:
            return tf.minimum(count - step % steps * batch_size, batch_size)

        def own_size(step: tf.Tensor) -> tf.Tensor:
            start, stop = share.bounds(size(step))
            return stop - start

        def step_of(number: tf.Tensor) -> tf.Tensor:
            return number // count * steps + number % count // batch_size

        def epoch_examples(epoch: tf.Tensor) -> tf.data.Dataset:
            skipped = tf.maximum(first_step - epoch * steps, 0) * batch_size
            # The number of an image is the count of those before it in the run.
            numbers = tf.data.Dataset.range(
                epoch * count + skipped, (epoch + 1) * count
            )
            examples = self._source.examples(
                self._split, self._indices, order_seed(seed, epoch)
            )
            return tf.data.Dataset.zip((numbers, examples.skip(skipped)))

        def is_own(number: tf.Tensor, unread: tf.Tensor) -> tf.Tensor:
            place = number % count % batch_size
            return share.holds(place, size(step_of(number)))

        def decode(number: tf.Tensor, unread: tf.Tensor):
            image, label = self._source.encoded(self._split, unread)
            pixels = self._augmented(image, augmentation_seed(seed, number))
            return step_of(number), {"image": pixels, "label": label}

        def one_batch(step: tf.Tensor, examples: tf.data.Dataset) -> tf.data.Dataset:
            first, _ = share.bounds(size(step))
            batch = examples.batch(batch_size).map(lambda steps, batch: batch)
            return share.split_per_replica(batch, first, size(step))

        examples = tf.data.Dataset.range(first_step // steps, epochs).flat_map(
            epoch_examples
        )
        if len(share.own) < share.replicas:
            examples = examples.filter(is_own)
        return (
            examples.map(
                decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
            # The decoders go on while a batch is put together.
            .prefetch(batch_size)
            # Not `batch`, which makes batches of one size: in the last batch of an
            # epoch, which is smaller, a share may be larger than in the others.
            .group_by_window(lambda step, _: step, one_batch, window_size_func=own_size)
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
            evaluation_fraction=self._evaluation_fraction,
        )

    def mean_and_variance(self, examples: int) -> tuple[list[float], list[float]]:
        """See `Reader`; the images are spread evenly over the split."""
        step = -(-len(self._indices) // examples)
        images = self._cropped(self._indices[::step]).map(lambda image, _: image)
        return channel_statistics(images.batch(256).as_numpy_iterator())

    def _cropped(self, indices: np.ndarray) -> tf.data.Dataset:
        """Returns (uint8 [h, w, c], int32 label) of images, not augmented."""

        def decode(unread: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image, label = self._source.encoded(self._split, unread)
            return self._central_crop(image), label

        return self._source.examples(self._split, indices, None).map(
            decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def _augmented(self, image: EncodedImage, seed: tf.Tensor) -> tf.Tensor:
        """Returns an image as a training step sees it, uint8 [h, w, c]."""
        height, width, channels = self._source.image_shape
        if self._augment == "imagenet":
            return random_resized_crop_flip_encoded(
                image,
                seed,
                size=(height, width),
                channels=channels,
            )
        pixels = self._central_crop(image)
        if self._augment == "cifar":
            pixels = pad_crop_flip(pixels[tf.newaxis], seed, padding=self._padding)[0]
        return pixels

    def _central_crop(self, image: EncodedImage) -> tf.Tensor:
        """Returns an image as an evaluation sees it, uint8 [h, w, c]."""
        height, width, channels = self._source.image_shape
        pixels = central_crop(
            decode_upright(image, channels=channels),
            size=(height, width),
            fraction=self._evaluation_fraction,
        )
        return tf.ensure_shape(pixels, self._source.image_shape)
