"""Reads the files of a data set that tensorflow-datasets (tfds) has prepared."""

import contextlib
import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from afd_tf.data import augment, pictures, prepare, shuffle
from afd_tf.data.cache import Cache
from afd_tf.errors import UserError

# How many pictures are looked at to learn their size, if tfds does not know it.
_EXAMINED = 1000

# Streaming: files read side by side, and pictures (still encoded) to shuffle among.
_PARALLEL_FILES = 16
_SHUFFLE_BUFFER = 4096

_READ_BATCH = 256


class TfdsSource:
    """A tfds data set with the features "image" and "label".

    The training split is "train"; the test split is "test", or "validation" where
    there is no "test" or its labels are withheld (-1, as in imagenet2012). Where
    "test" is usable, "validation" is the validation split.

    What tfds says about the data set is cached, so that tfds itself, slow to
    import, is needed at the first start only.

    Args:
      name: as tfds takes it: "cifar100", "cifar10_1/v4", "mnist:3.0.1".
      data_dir: where prepared data sets lie; None is the default of tfds.
      download: whether a data set that is not prepared may be fetched.
      image_size: pixels to crop and resize to; None keeps the (common) size.
      train_split: another training split, in tfds' notation ("train[:80%]").
      test_split: another test split.
      cache: keeps what was found out.

    Raises:
      UserError: the data set is unknown, cannot be had or cannot be used.
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

        def describe() -> dict[str, Any]:
            from afd_tf.data import catalog

            found = catalog.describe(
                name,
                data_dir=data_dir,
                download=download,
                train_split=train_split,
                test_split=test_split,
            )
            return found | {"stamp": _stamp(found)}

        self._found = cache.value(
            {
                "tfds": importlib.metadata.version("tensorflow-datasets"),
                "name": name,
                "data_dir": data_dir,
                "default_data_dir": os.environ.get("TFDS_DATA_DIR"),
                "splits": [train_split, test_split],
            },
            describe,
            is_current=lambda found: found["stamp"] == _stamp(found),
        )
        self.class_names = tuple(self._found["class_names"])
        self.counts = {
            split: sum(take for _, _, take in part["pieces"])
            for split, part in self._found["splits"].items()
        }
        height, width, self._channels = self._found["shape"]
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
            "source": f"tfds:{self._found['full_name']}",
            "split": self._found["splits"][split],
            "image_size": self._image_size,
            "stamp": self._found["stamp"],
        }

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`."""

        def decode(undecoded, label):
            image = self.decode(undecoded)
            if self._image_size is not None:
                image = augment.central_crop(image, size=self.image_shape[:2])
            return tf.ensure_shape(image, self.image_shape), label

        images = np.empty([self.counts[split], *self.image_shape], np.uint8)
        labels = np.empty([self.counts[split]], np.int32)
        everything = np.arange(len(labels))
        examples = self.examples(split, everything, None).map(
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
                f"{self.image_shape[1]} pixels (pictures of different sizes need "
                f"--image_size=N): {prepare.one_line(error)}"
            ) from error
        if labels.min() < 0:
            raise UserError(f"{self.name} has pictures without a label in {split}.")
        return images, labels

    def labels(self, split: str) -> np.ndarray:
        """See `Source`; reads all records once."""
        logging.info("reading the labels of %s %s", self.name, split)
        everything = np.arange(self.counts[split])
        labels = self.examples(split, everything, None).map(lambda _, label: label)
        return np.concatenate(list(labels.batch(1024).as_numpy_iterator()))

    def examples(
        self, split: str, indices: np.ndarray, shuffle_seed: tf.Tensor | None
    ) -> tf.data.Dataset:
        """See `Source`.

        Shuffling takes the files in random order, reads several side by side, and
        mixes within a buffer.
        """
        pieces = self._found["splits"][split]["pieces"]
        names, skips, takes = zip(*pieces, strict=True)
        firsts = np.cumsum(takes) - takes
        files = (
            tf.constant(names),
            tf.constant(skips, tf.int64),
            tf.constant(takes, tf.int64),
            tf.constant(firsts, tf.int64),
        )
        if shuffle_seed is not None:
            order = shuffle.permutation(len(pieces), shuffle_seed)
            files = tuple(tf.gather(column, order) for column in files)
        complete = len(indices) == self.counts[split]
        chosen = np.zeros(self.counts[split], bool)
        chosen[indices] = True
        chosen = tf.constant(chosen)

        def read_file(name, skip, take, first):
            records = tf.data.TFRecordDataset(name, buffer_size=1 << 20)
            records = records.skip(skip).take(take)
            if complete:
                return records
            return (
                records.enumerate(first)
                .filter(lambda index, _: tf.gather(chosen, index))
                .map(lambda _, record: record)
            )

        records = tf.data.Dataset.from_tensor_slices(files)
        if shuffle_seed is None:
            records = records.flat_map(read_file)
        else:
            records = records.interleave(
                read_file,
                cycle_length=_PARALLEL_FILES,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            with _without_global_seed():
                records = records.shuffle(
                    _SHUFFLE_BUFFER,
                    seed=tf.bitwise.bitwise_xor(shuffle_seed[0], shuffle_seed[1]),
                    reshuffle_each_iteration=False,
                )
        return records.map(_parse, num_parallel_calls=tf.data.AUTOTUNE)

    def decode(self, undecoded: tf.Tensor) -> tf.Tensor:
        """See `Source`."""
        return tf.io.decode_image(undecoded, self._channels, expand_animations=False)

    def _common_size(self) -> tuple[int, int]:
        """Returns the size of the first pictures, which must all have one."""
        everything = np.arange(self.counts["train"])
        sizes = (
            self.examples("train", everything, None)
            .take(_EXAMINED)
            .map(lambda undecoded, _: tf.shape(self.decode(undecoded))[:2])
        )
        what = f"{self.name} (its first {_EXAMINED:,} pictures)"
        found = {tuple(size.tolist()) for size in sizes.as_numpy_iterator()}
        return pictures.common_size(found, what)


@contextlib.contextmanager
def _without_global_seed() -> Iterator[None]:
    """Hides TensorFlow's global seed from the graph that is being built.

    It would enter the order, and TensorFlow asks whether it and the order's own seed
    are both 0, which a tensor cannot answer.
    """
    graph = tf.compat.v1.get_default_graph()
    seed, graph.seed = graph.seed, None
    try:
        yield
    finally:
        graph.seed = seed


def _stamp(found: Mapping[str, Any]) -> list[Any]:
    """Returns what changes when the prepared files change; [] if they are gone."""
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
    """Returns encoded picture and int32 label of a record, and nothing else of it."""
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    example = tf.io.parse_single_example(record, features)
    return example["image"], tf.cast(example["label"], tf.int32)
