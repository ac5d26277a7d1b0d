"""A reader that makes batches of images that are decoded whenever they are needed."""

import functools
import math

import numpy as np
import tensorflow as tf

from afd_tf.data.augment import central_crop, pad_crop_flip
from afd_tf.data.choices import crop_style
from afd_tf.data.decoding import (
    EncodedImage,
    decode_upright,
    random_resized_crop_flip_encoded,
)
from afd_tf.data.encoded_memory import EncodedSource
from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.data.readers import MemoryReader, channel_statistics
from afd_tf.data.sampling import augmentation_seed, mixing_seed, order_seed
from afd_tf.data.sharding import Share


class StreamReader:
    """Images that are read, decoded and cropped whenever they are needed.

    Order and augmentation are made from the seed, the epoch and the image's place in
    it, so that a run that begins at `first_step` sees the images it would have seen.

    Args:
      source: the images, in files or in memory.
      split: the source's split to read.
      recipe: makes training batches of them; each image is augmented by itself.
      indices: positions in the split of the images to read, int64 [n], sorted; None
        is all.
      evaluation_fraction: the part of an image's height and width that an evaluation
        sees, 0..1; None is 0.875 for images that are cropped as by "imagenet" ("resize
        to 256, crop 224"), else 1.
      memory_bytes: decoded images of no more bytes are kept after the first evaluation,
        whose pixels are always the same.
    """

    def __init__(
        self,
        source: EncodedSource,
        split: str,
        recipe: ImageRecipe,
        *,
        indices: np.ndarray | None = None,
        evaluation_fraction: float = 1.0,
        memory_bytes: float = 0.0,
    ):
        if indices is None:
            indices = np.arange(source.counts[split], dtype=np.int64)
        self._source = source
        self._split = split
        self._indices = indices
        self._recipe = recipe
        self._crop = crop_style(recipe.augment, image_shape=source.image_shape)
        self._evaluation_fraction = evaluation_fraction
        self._memory_bytes = memory_bytes

    def __len__(self) -> int:
        """See `Reader`."""
        return len(self._indices)

    def train_batches(
        self, *, batch_size: int, seed: int, epochs: int, first_step: int, share: Share
    ) -> tf.data.Dataset:
        """See `Reader`; only images of the share, and their partners, are read."""
        count = len(self._indices)
        steps = -(-count // batch_size)
        mixes = self._recipe.mixes
        repeats = self._recipe.repeats(self.labels, seed)

        def size(step: tf.Tensor) -> tf.Tensor:
            return tf.minimum(count - step % steps * batch_size, batch_size)

        def read_size(step: tf.Tensor) -> tf.Tensor:
            return share.count(size(step), with_partners=mixes)

        def step_of(number: tf.Tensor) -> tf.Tensor:
            return number // count * steps + number % count // batch_size

        def epoch_examples(epoch: tf.Tensor) -> tf.data.Dataset:
            skipped = tf.maximum(first_step - epoch * steps, 0) * batch_size
            # The number of an image is the count of those before it in the run.
            numbers = tf.data.Dataset.range(
                epoch * count + skipped, (epoch + 1) * count
            )
            examples = self._source.examples(
                self._split, self._indices, order_seed(seed, epoch), repeats(epoch)
            )
            return tf.data.Dataset.zip((numbers, examples.skip(skipped)))

        def is_read(number: tf.Tensor, unread: tf.Tensor) -> tf.Tensor:
            place, whole = number % count % batch_size, size(step_of(number))
            is_partner = mixes & share.holds(whole - 1 - place, whole)
            return is_partner | share.holds(place, whole)

        def decode(number: tf.Tensor, unread: tf.Tensor):
            image, label = self._source.encoded(self._split, unread)
            pixels = self._augmented(image, augmentation_seed(seed, number))
            return step_of(number), {"image": pixels, "label": label}

        def one_batch(step: tf.Tensor, examples: tf.data.Dataset) -> tf.data.Dataset:
            return examples.batch(batch_size).map(lambda steps, batch: (step, batch))

        def mix(step: tf.Tensor, batch: dict[str, tf.Tensor]):
            # Where image p was read, its partner was: the part that was read is, like
            # the whole batch, its partners in reverse.
            batch = self._recipe.mix(batch, mixing_seed(seed, step))
            return step, share.without_partners(batch, size(step))

        def split(step: tf.Tensor, batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
            first, _ = share.bounds(size(step))
            whole = tf.data.Dataset.from_tensors(batch)
            return share.split_per_replica(whole, first, size(step))

        examples = tf.data.Dataset.range(first_step // steps, epochs).flat_map(
            epoch_examples
        )
        if len(share.own) < share.replicas:
            examples = examples.filter(is_read)
        batches = (
            examples.map(
                decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
            # The decoders go on while a batch is put together.
            .prefetch(batch_size)
            # Not `batch`, which makes batches of one size: in the last batch of an
            # epoch, which is smaller, a share may be larger than in the others.
            .group_by_window(
                lambda step, _: step, one_batch, window_size_func=read_size
            )
        )
        if mixes:
            batches = batches.map(
                mix, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
        return batches.flat_map(split)

    def evaluation_batches(self, *, batch_size: int, share: Share) -> tf.data.Dataset:
        """See `Reader`; only images of the share are decoded."""
        count = len(self._indices)
        fits = count * math.prod(self._source.image_shape) <= self._memory_bytes
        if fits and len(share.own) == share.replicas:
            return self._decoded.evaluation_batches(batch_size=batch_size, share=share)
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
            self._recipe,
            indices=self._indices[indices],
            evaluation_fraction=self._evaluation_fraction,
            memory_bytes=self._memory_bytes,
        )

    def mean_and_variance(self, examples: int) -> tuple[list[float], list[float]]:
        """See `Reader`; the images are spread evenly over the split."""
        step = -(-len(self._indices) // examples)
        images = self._cropped(self._indices[::step]).map(lambda image, _: image)
        return channel_statistics(images.batch(256).as_numpy_iterator())

    @functools.cached_property
    def _decoded(self) -> MemoryReader:
        """All images, not augmented."""
        images = np.empty([len(self), *self._source.image_shape], np.uint8)
        cropped = self._cropped(self._indices).prefetch(tf.data.AUTOTUNE)
        for place, (image, _) in enumerate(cropped.as_numpy_iterator()):
            images[place] = image
        return MemoryReader(images, self.labels(), ImageRecipe())

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
        if self._crop == "imagenet":
            pixels = random_resized_crop_flip_encoded(
                image,
                seed,
                size=(height, width),
                channels=channels,
                least_area=self._recipe.least_area,
            )[tf.newaxis]
        else:
            pixels = self._central_crop(image)[tf.newaxis]
        if self._crop == "cifar":
            pixels = pad_crop_flip(pixels, seed, padding=self._recipe.padding)
        return self._recipe.change_cropped(pixels, seed)[0]

    def _central_crop(self, image: EncodedImage) -> tf.Tensor:
        """Returns an image as an evaluation sees it, uint8 [h, w, c]."""
        height, width, channels = self._source.image_shape
        pixels = central_crop(
            decode_upright(image, channels=channels),
            size=(height, width),
            fraction=self._evaluation_fraction,
        )
        return tf.ensure_shape(pixels, self._source.image_shape)
