"""A data set whose images say their numbers, in memory or streamed."""

import numpy as np
import tensorflow as tf

from afd_tf.data import Dataset, DatasetInfo
from afd_tf.data.decoding import EncodedImage
from afd_tf.data.encoded_memory import EncodedMemory
from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.data.readers import MemoryReader
from afd_tf.data.sampling import epoch_order
from afd_tf.data.stream_reader import StreamReader

SIDE = 6


def images(count):
    """Image i says i in its first two pixels; its label is i % 3."""
    images = np.zeros([count, SIDE, SIDE, 1], np.uint8)
    numbers = np.arange(count)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers // 256, numbers % 256
    images[:, 2:] = np.random.default_rng(0).integers(
        0, 256, images[:, 2:].shape, np.uint8
    )
    return images, (numbers % 3).astype(np.int32)


class NumberedSource:
    """A source to stream from, that counts how often each image is read."""

    image_shape = (SIDE, SIDE, 1)

    def __init__(self, count):
        self.counts = {"train": count, "test": count}
        self.images, self._labels = images(count)
        self.times_read = np.zeros(count, int)

    def labels(self, split):
        return self._labels

    def encoded_bytes(self, split):
        return self.images.nbytes

    def positions(self, split, indices, shuffle_seed, repeats=None):
        order = indices
        if shuffle_seed is not None:
            order = epoch_order(indices, shuffle_seed, repeats)
        return tf.data.Dataset.from_tensor_slices(order)

    def examples(self, split, indices, shuffle_seed, repeats=None):
        return self.positions(split, indices, shuffle_seed, repeats)

    def encoded(self, split, unread):
        def read(index):
            self.times_read[index] += 1
            return self.images[index]

        image = tf.numpy_function(read, [unread], tf.uint8)
        image = tf.ensure_shape(image, self.image_shape)
        image = EncodedImage(tf.io.encode_png(image), tf.constant(1))
        return image, tf.gather(self._labels, unread)


def numbered(count, *, streamed=False, held=False, **recipe):
    """A data set of `images`, in memory, or streamed from (held) encoded images."""
    recipe = ImageRecipe(**recipe)
    if streamed:
        source = NumberedSource(count)
        source = EncodedMemory(source) if held else source
        splits = {
            split: StreamReader(source, split, recipe) for split in ("train", "test")
        }
    else:
        reader = MemoryReader(*images(count), recipe)
        splits = {"train": reader, "test": reader}
    info = DatasetInfo(
        name="numbered",
        image_shape=(SIDE, SIDE, 1),
        class_names=("a", "b", "c"),
        examples={"train": count, "validation": 0, "test": count},
        mean=(0.0,),
        variance=(1.0,),
        augment=recipe.augment,
    )
    return Dataset(info, splits)


def numbers_of(batch):
    """Returns the numbers of a batch's images, int [B]."""
    image = np.asarray(batch["image"]).astype(int)
    return image[:, 0, 0, 0] * 256 + image[:, 0, 1, 0]


def collect(batches):
    """Returns a list of batches of NumPy arrays."""
    return list(batches.as_numpy_iterator())
