"""A data set as NumPy arrays, read without TensorFlow, to evaluate with."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from afd_tf.base.errors import UserError
from afd_tf.data.cache import Cache
from afd_tf.data.dataset_info import DatasetInfo
from afd_tf.data.digits_source import DigitsSource
from afd_tf.data.sources import Source, Streaming, open_source, streaming


class ArrayDataset:
    """Labelled images of a data set that needs no TensorFlow to be read.

    An evaluation sees the pixels that a `Dataset` gives it. Where that decodes JPEG
    files with TensorFlow, here Pillow does it, and pixels differ by a rounding step.

    The splits are those of the source; nothing is held out of the training images.

    Attributes:
      info: the description of the data set.

    Args:
      info: the description.
      source: of the images; no tfds data set.
      how: see `sources.streaming`.
      cache: keeps decoded images that fit into memory, as for a `Dataset`.
    """

    def __init__(self, info: DatasetInfo, source: Source, how: Streaming, cache: Cache):
        self.info = info
        self._source = source
        self._how = how
        self._cache = cache

    def numpy_batches(
        self, split: str, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the images of a split once, in order: see `Dataset.numpy_batches`.

        Args:
          split: "train", "test" or, where the source has it, "validation".
          batch_size: images per batch.

        Yields:
          images, uint8 [B, h, w, c], and their labels, int32 [B]; the last batch may
          be smaller.

        Raises:
          UserError: there is no such split, or an image cannot be decoded.
        """
        source = self._source
        check_split(split, source.counts, self.info.name)
        if self._how.streamed and not isinstance(source, DigitsSource):
            labels = source.labels(split)

            def read(part: slice) -> np.ndarray:
                positions = range(*part.indices(len(labels)))
                return source.read_some(split, positions, self._how.evaluation_fraction)

        else:
            images, labels = self._cache.images(
                {"images": source.fingerprint(split)}, lambda: source.read(split)
            )
            read = images.__getitem__
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            yield np.asarray(read(part)), labels[part]


def check_split(split: str, splits: Mapping[str, Any], name: str) -> None:
    """Refuses a split that a data set does not have.

    Args:
      split: the name that was given.
      splits: by name.
      name: of the data set.

    Raises:
      UserError: there is no such split.
    """
    if split not in splits:
        raise UserError(f"{name} has no split {split!r}; it has {', '.join(splits)}.")


def open_arrays(
    name: str,
    *,
    expected: DatasetInfo,
    image_size: int | None,
    cache_dir: str | None,
    cache_gigabytes: float,
    **opening: Any,
) -> ArrayDataset:
    """Opens a data set for the evaluation of a run or an artifact.

    Args:
      name: "folder:PATH", "csv:PATH" or "digits".
      expected: the info of the run or artifact.
      image_size: see `dataset.load`, as are the next ones.
      cache_dir: the directory for decoded images.
      cache_gigabytes: the bound of its size.
      **opening: further arguments of `sources.open_source`.

    Raises:
      UserError: it is malformed, or does not fit to the expected one.
    """
    cache = Cache(cache_dir, cache_gigabytes)
    source = open_source(
        name,
        image_size=image_size,
        cache=cache,
        white_level=expected.white_level,
        **opening,
    )
    expected.check_compatible(source.name, source.image_shape, source.class_names)
    info = dataclasses.replace(
        expected,
        name=source.name,
        examples={
            split: source.counts.get(split, 0)
            for split in ("train", "validation", "test")
        },
    )
    how = streaming(source, augment=expected.augment, image_size=image_size)
    return ArrayDataset(info, source, how, cache)
