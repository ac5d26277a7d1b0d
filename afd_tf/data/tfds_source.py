"""The files of a data set that tensorflow-datasets (tfds) has prepared."""

import contextlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from afd_tf.base.errors import UserError
from afd_tf.data.augment import central_crop
from afd_tf.data.cache import Cache
from afd_tf.data.decoding import EncodedImage, decode_upright
from afd_tf.data.image_files import common_size
from afd_tf.data.sampling import permutation
from afd_tf.data.tfds_download import one_line

# The number of images that are read to learn their size, if tfds does not know it.
_EXAMINED = 1000

# Of a shuffled stream: files read side by side, and encoded images in the buffer.
_PARALLEL_FILES = 16
_SHUFFLE_BUFFER = 4096

_READ_BATCH = 256


class _Piece(NamedTuple):
    """Consecutive records of a file.

    Attributes:
      name: of the file.
      skip: the number of records before them in the file.
      take: their number.
      first: the position in the split of the first one.
    """

    name: tf.Tensor
    skip: tf.Tensor
    take: tf.Tensor
    first: tf.Tensor


class TfdsSource:
    """A tfds data set with the features "image" and "label".

    The training split is "train"; the test split is "test", or "validation" where
    there is no "test" or its labels are withheld (-1, as in imagenet2012). Where
    "test" is usable, "validation" is the validation split.

    The metadata of the data set is cached, so that tfds itself, slow to import, is
    needed at the first start only.

    Args:
      name: in the notation of tfds: "cifar100", "cifar10_1/v4", "mnist:3.0.1".
      data_dir: where prepared data sets are; None is the default of tfds.
      download: whether a data set that is not prepared may be downloaded.
      image_size: height and width in pixels to crop and resize to; None keeps the
        size, which all images must share.
      train_split: another training split, in the notation of tfds ("train[:80%]").
      test_split: another test split.
      cache: keeps the metadata.

    Raises:
      UserError: the data set is unknown, or cannot be prepared or used.
    """

    def __init__(
        self,
        name: str,
        *,
        data_dir: str | None,
        download: bool,
        image_size: int | None,
        train_split: str | None,
        test_split: str | None,
        cache: Cache,
    ):
        self.name = name
        self._image_size = image_size
        self._cache = cache

        def find() -> dict[str, Any]:
            from afd_tf.data import tfds_metadata  # imports tfds

            found = tfds_metadata.find_dataset(
                name,
                data_dir=data_dir,
                download=download,
                train_split=train_split,
                test_split=test_split,
            )
            return found | {"stamp": _stamp(found)}

        self._metadata = cache.value(
            {
                "tfds": importlib.metadata.version("tensorflow-datasets"),
                "name": name,
                "data_dir": data_dir,
                "default_data_dir": os.environ.get("TFDS_DATA_DIR"),
                "splits": [train_split, test_split],
            },
            find,
            is_current=lambda found: found["stamp"] == _stamp(found),
        )
        self.class_names = tuple(self._metadata["class_names"])
        self.counts = {
            split: sum(take for _, _, take in part["pieces"])
            for split, part in self._metadata["splits"].items()
        }
        height, width, self._channels = self._metadata["shape"]
        if image_size is not None:
            height = width = image_size
        elif height is None or width is None:
            height, width = cache.value(
                {"size": self.fingerprint("train")}, self._common_size
            )
        self.image_shape = (height, width, self._channels)

    def fingerprint(self, split: str) -> dict[str, Any]:
        """See `Source`."""
        return {
            "source": f"tfds:{self._metadata['full_name']}",
            "split": self._metadata["splits"][split],
            "image_size": self._image_size,
            "stamp": self._metadata["stamp"],
        }

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`."""

        def decode(record):
            image, label = self._decode(split, record)
            if self._image_size is not None:
                image = central_crop(image, size=self.image_shape[:2])
            return tf.ensure_shape(image, self.image_shape), label

        images = np.empty([self.counts[split], *self.image_shape], np.uint8)
        labels = np.empty([self.counts[split]], np.int32)
        examples = self.examples(split, np.arange(len(labels)), None).map(
            decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        start = 0
        try:
            for image_batch, label_batch in examples.batch(_READ_BATCH).prefetch(4):
                stop = start + len(label_batch)
                images[start:stop] = image_batch
                labels[start:stop] = label_batch
                start = stop
        except tf.errors.OpError as error:
            raise UserError(
                f"{self.name} {split} cannot be decoded to {self.image_shape[0]}x"
                f"{self.image_shape[1]} pixels (images of different sizes need "
                f"--image_size=N): {one_line(error)}"
            ) from error
        if labels.min() < 0:
            raise UserError(
                f"{self.name} has images without a label in {split}: choose other "
                f"splits with --train_split and --test_split."
            )
        return images, labels

    def labels(self, split: str) -> np.ndarray:
        """See `Source`; reads all records, once as long as the cache has them."""

        def read() -> list[int]:
            logging.info("reading the labels of %s %s", self.name, split)
            records = self.examples(split, np.arange(self.counts[split]), None)
            labels = records.map(lambda record: _parse(record)[1])
            return np.concatenate(list(labels.batch(1024).as_numpy_iterator())).tolist()

        labels = self._cache.value({"labels": self.fingerprint(split)}, read)
        return np.array(labels, np.int32)

    def encoded_bytes(self, split: str) -> int:
        """See `EncodedSource`: all of the files that hold images of the split."""
        files = {file for file, _, _ in self._metadata["splits"][split]["pieces"]}
        return sum(size for file, size, _ in self._metadata["stamp"] if file in files)

    def positions(
        self,
        split: str,
        indices: np.ndarray,
        shuffle_seed: tf.Tensor | None,
        repeats: tf.Tensor | None = None,
    ) -> tf.data.Dataset:
        """See `EncodedSource`."""
        return self._in_order(
            split,
            indices,
            shuffle_seed,
            repeats,
            lambda file: tf.data.Dataset.range(file.first, file.first + file.take),
        )

    def examples(
        self,
        split: str,
        indices: np.ndarray,
        shuffle_seed: tf.Tensor | None,
        repeats: tf.Tensor | None = None,
    ) -> tf.data.Dataset:
        """See `EncodedSource`; an unread image is its record.

        Shuffling takes the files in random order, reads several side by side, and
        mixes within a buffer.
        """
        return self._in_order(
            split,
            indices,
            shuffle_seed,
            repeats,
            lambda file: (
                tf.data.TFRecordDataset(file.name, buffer_size=1 << 20)
                .skip(file.skip)
                .take(file.take)
            ),
        )

    def encoded(self, split: str, unread: tf.Tensor) -> tuple[EncodedImage, tf.Tensor]:
        """See `EncodedSource`; as with tfds, images stay as they are stored."""
        del split
        contents, label = _parse(unread)
        return EncodedImage(contents, tf.constant(1)), label

    def _in_order(
        self,
        split: str,
        indices: np.ndarray,
        shuffle_seed: tf.Tensor | None,
        repeats: tf.Tensor | None,
        read: Callable[["_Piece"], tf.data.Dataset],
    ) -> tf.data.Dataset:
        """Returns the elements at `indices` of a split, in the order of `examples`.

        Args:
          split: see `examples`.
          indices: see `examples`.
          shuffle_seed: see `examples`.
          repeats: see `examples`.
          read: returns one element for each record of a piece.
        """
        pieces = self._metadata["splits"][split]["pieces"]
        names, skips, takes = zip(*pieces, strict=True)
        firsts = np.cumsum(takes) - takes
        files = _Piece(
            tf.constant(names),
            tf.constant(skips, tf.int64),
            tf.constant(takes, tf.int64),
            tf.constant(firsts, tf.int64),
        )
        if shuffle_seed is not None:
            order = permutation(len(pieces), shuffle_seed)
            files = _Piece(*(tf.gather(column, order) for column in files))
        complete = len(indices) == self.counts[split]
        times = np.zeros(self.counts[split], np.int64)
        times[indices] = 1
        times = tf.constant(times)
        if repeats is not None:
            times = tf.tensor_scatter_nd_update(times, indices[:, np.newaxis], repeats)

        def repeat(index: tf.Tensor, element: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensors(element).repeat(tf.gather(times, index))

        def read_file(*file: tf.Tensor) -> tf.data.Dataset:
            file = _Piece(*file)
            elements = read(file)
            if complete and repeats is None:
                return elements
            elements = elements.enumerate(file.first).filter(
                lambda index, _: tf.gather(times, index) > 0
            )
            if repeats is None:
                return elements.map(lambda _, element: element)
            return elements.flat_map(repeat)

        dataset = tf.data.Dataset.from_tensor_slices(tuple(files))
        if shuffle_seed is None:
            return dataset.flat_map(read_file)
        dataset = dataset.interleave(
            read_file,
            cycle_length=_PARALLEL_FILES,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        with _without_global_seed():
            return dataset.shuffle(
                _SHUFFLE_BUFFER,
                seed=tf.bitwise.bitwise_xor(shuffle_seed[0], shuffle_seed[1]),
                reshuffle_each_iteration=False,
            )

    def _decode(self, split: str, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a whole image, uint8 [h, w, c], and its label."""
        image, label = self.encoded(split, record)
        return decode_upright(image, channels=self._channels), label

    def _common_size(self) -> tuple[int, int]:
        """Returns height and width of the first images, which must have one size."""
        everything = np.arange(self.counts["train"])
        sizes = (
            self.examples("train", everything, None)
            .take(_EXAMINED)
            .map(lambda record: tf.shape(self._decode("train", record)[0])[:2])
        )
        what = f"{self.name} (its first {_EXAMINED:,} images)"
        found = {tuple(size.tolist()) for size in sizes.as_numpy_iterator()}
        return common_size(found, what)


@contextlib.contextmanager
def _without_global_seed() -> Iterator[None]:
    """Hides TensorFlow's global seed from the graph that is being built.

    A shuffling operator would mix it into the order, and would compare it and its own
    seed with 0, which fails for a seed that is a tensor.
    """
    graph = tf.compat.v1.get_default_graph()
    seed, graph.seed = graph.seed, None
    try:
        yield
    finally:
        graph.seed = seed


def _stamp(found: Mapping[str, Any]) -> list[Any]:
    """Returns name, length and time of change of the files; [] if one is gone."""
    files = {file for part in found["splits"].values() for file, _, _ in part["pieces"]}
    try:
        return [
            [file, status.length, status.mtime_nsec]
            for file, status in (
                (file, tf.io.gfile.stat(file)) for file in sorted(files)
            )
        ]
    except tf.errors.OpError:
        return []


def _parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the encoded image, string, and the label, int32, of a record."""
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    example = tf.io.parse_single_example(record, features)
    return example["image"], tf.cast(example["label"], tf.int32)
