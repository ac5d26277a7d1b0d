"""Sources of labelled images: `digits`, `folder:PATH`, `csv:PATH` or a tfds name."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from afd_tf.base.errors import UserError
from afd_tf.base.paths import expanded
from afd_tf.data.cache import Cache
from afd_tf.data.choices import EVALUATION_FRACTION, crop_style
from afd_tf.data.digits_source import DigitsSource

if TYPE_CHECKING:
    from afd_tf.data.encoded_memory import EncodedSource

# Splits decoded to no more bytes than this are held in memory; larger ones are
# streamed.
MAX_IN_MEMORY_BYTES = 2 << 30

# The prefixes of data sets that are files of the user's.
FOLDER_PREFIX = "folder:"
CSV_PREFIX = "csv:"


class Source(Protocol):
    """Labelled images of one size, in named splits.

    Attributes:
      name: the data set's full name.
      class_names: one name per label.
      image_shape: height, width and channels of the images that `read` returns.
      counts: number of images per split: "train", "test" and perhaps "validation".
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    counts: Mapping[str, int]

    def fingerprint(self, split: str) -> dict[str, Any]:
        """Returns JSON values that change whenever the images of a split change."""

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Decodes a whole split.

        Returns:
          images, uint8 [n, h, w, c], and their labels, int32 [n].

        Raises:
          UserError: an image cannot be decoded, or has no label.
        """

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, int32 [n], without decoding the images."""


class Streaming(NamedTuple):
    """Whether images are decoded whenever they are needed, and what of them is seen.

    Attributes:
      large: whether there are too many for memory.
      streamed: whether they are decoded again and again: too many, or to be cropped at
        their own resolution.
      evaluation_fraction: the part of an image's height and width that an evaluation
        sees, 0..1.
    """

    large: bool
    streamed: bool
    evaluation_fraction: float


def streaming(source: Source, *, augment: str, image_size: int | None) -> Streaming:
    """Returns how the images of a source are read.

    Args:
      source: from `open_source`.
      augment: one of `choices.AUGMENTATIONS`.
      image_size: as given to `open_source`.
    """
    largest = max(source.counts.values()) * int(np.prod(source.image_shape))
    large = largest > MAX_IN_MEMORY_BYTES
    # Each epoch's random crop is taken from the whole image, at its own resolution.
    crops = crop_style(augment, image_shape=source.image_shape) == "imagenet"
    return Streaming(
        large=large,
        streamed=large or (crops and image_size is not None),
        # Smaller data sets are evaluated on whole images.
        evaluation_fraction=EVALUATION_FRACTION if large and crops else 1.0,
    )


def encoded_source(source: Source, cache: Cache) -> "EncodedSource | None":
    """Returns the images of a source as they are stored; None where they have no files.

    Args:
      source: from `open_source`.
      cache: takes copies of files that TensorFlow cannot decode.

    Raises:
      UserError: a file is broken.
    """
    if isinstance(source, DigitsSource):
        return None
    if hasattr(source, "encoded_source"):
        return source.encoded_source(cache)
    return source  # a `TfdsSource` is both


def canonical_name(name: str) -> str:
    """Returns the one form of the names of a data set.

    "folder:~/x", "folder:x/" and "folder:./x" all are "folder:" and the absolute path.

    Args:
      name: as given to --dataset.
    """
    prefix, path = _divide(name)
    if not prefix or not path:
        return name
    return prefix + os.path.abspath(os.path.expanduser(path))


def is_files(name: str) -> bool:
    """Returns whether a data set is a folder or a table of images."""
    return bool(_divide(name)[0])


def is_tfds(name: str) -> bool:
    """Returns whether a data set is one of tensorflow-datasets."""
    return name != "digits" and not is_files(name)


def _divide(name: str) -> tuple[str, str]:
    """Returns prefix and path; no prefix for other names."""
    for prefix in (FOLDER_PREFIX, CSV_PREFIX):
        if name.lower().startswith(prefix):
            return prefix, name[len(prefix) :]
    return "", name


def open_source(
    name: str,
    *,
    data_dir: str | None,
    download: bool,
    image_size: int | None,
    train_split: str | None,
    test_split: str | None,
    cache: Cache,
    **of_files: Any,
) -> Source:
    """Opens the source that `name` stands for.

    Args:
      name: see `load`, as are all arguments but the last two.
      data_dir: for tfds names.
      download: for tfds names.
      image_size: for all.
      train_split: for tfds names.
      test_split: for tfds names.
      cache: keeps facts about the files between runs.
      **of_files: further arguments of `FolderSource`; other data sets have no use for
        them.

    Raises:
      UserError: there is no such data set, or it cannot be used.
    """
    if (name == "digits" or is_files(name)) and (train_split or test_split):
        raise UserError(
            f"--train_split and --test_split are for tfds names; {name} has splits of "
            f"its own: leave them out."
        )
    if name == "digits":
        return DigitsSource(image_size=image_size)
    if is_files(name):
        from afd_tf.data.csv_table import list_csv
        from afd_tf.data.folder_layout import list_folder
        from afd_tf.data.folder_source import FolderSource

        prefix, path = _divide(name)
        if not path:
            raise UserError(
                f"--dataset={name} lacks the path: give --dataset={prefix}PATH."
            )
        path = os.path.abspath(expanded(path))
        listing = list_folder(path) if prefix == FOLDER_PREFIX else list_csv(path)
        return FolderSource(listing, image_size=image_size, cache=cache, **of_files)
    from afd_tf.data.tfds_source import TfdsSource

    try:
        return TfdsSource(
            name,
            data_dir=data_dir and str(expanded(data_dir)),
            download=download,
            image_size=image_size,
            train_split=train_split,
            test_split=test_split,
            cache=cache,
        )
    except UserError as error:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            raise UserError(
                f"{name!r} is a folder: give --dataset={FOLDER_PREFIX}{name} to use "
                f"its images. (As the name of a tfds data set: {error})"
            ) from error
        if os.path.isfile(path):
            raise UserError(
                f"{name!r} is a file: give --dataset={CSV_PREFIX}{name} for a table of "
                f"images, or --dataset={FOLDER_PREFIX}PATH for a folder of them. (As "
                f"the name of a tfds data set: {error})"
            ) from error
        raise
