"""Metadata of a data set of tensorflow-datasets (tfds), as plain values."""

import os
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from afd_tf.base.errors import UserError, nearest
from afd_tf.data.tfds_download import ensure_prepared, one_line


def find_dataset(
    name: str,
    *,
    data_dir: str | None,
    download: bool,
    train_split: str | None,
    test_split: str | None,
) -> dict[str, Any]:
    """Finds a tfds data set, prepares it if need be, and describes its files.

    Args:
      name: see `afd_tf.data.load`, as are all arguments.
      data_dir: where prepared data sets are; None is the default of tfds.
      download: whether a data set that is not prepared may be downloaded.
      train_split: None is "train".
      test_split: None is "test", or "validation" where "test" has no labels.

    Returns:
      JSON values: "full_name"; "directory"; "shape" [h, w, c] of the images, h and w
      None if not known; "class_names"; "splits": for "train", "test" and perhaps
      "validation", the "name" of the split in tfds and its "pieces" [file, first
      record, number of records].

    Raises:
      UserError: the data set is unknown, or cannot be prepared or used.
    """
    builder = _find_builder(name, data_dir)
    image, label = _image_and_label_features(name, builder.info.features)
    ensure_prepared(builder, name=name, download=download)
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"{name} is prepared as {builder.info.file_format.value}; only tfrecord, "
            f"the default of tfds, can be read: prepare it again as tfrecord."
        )
    chosen = _choose_splits(
        name, builder.info.splits, train_split=train_split, test_split=test_split
    )
    return {
        "full_name": builder.info.full_name,
        "directory": os.fspath(builder.data_path),
        "shape": list(image.shape),
        "class_names": list(label.names),
        "splits": {
            ours: {"name": theirs, "pieces": _pieces(builder.info.splits[theirs])}
            for ours, theirs in chosen.items()
        },
    }


def _find_builder(name: str, data_dir: str | None) -> Any:
    """Returns the tfds builder of that name."""
    verbosity = logging.get_verbosity()
    # tfds warns at length of a data set that is not prepared; our own message is one
    # line.
    logging.set_verbosity(logging.ERROR)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        raise UserError(
            f"unknown data set {name!r}.{nearest(name, known)} Known: digits, "
            f"folder:PATH and the image classification sets of tensorflow-datasets, "
            f"which `python -c 'import tensorflow_datasets as t; "
            f"print(t.list_builders())'` lists."
        ) from error
    except Exception as error:  # a wrong config or version, a missing package
        raise UserError(
            f"{name!r} cannot be opened by tensorflow-datasets: {one_line(error)}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _image_and_label_features(name: str, features: Any) -> tuple[Any, Any]:
    """Returns the features "image" and "label" of an image classification data set."""
    found = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = found.get("image"), found.get("label")
    if (
        not isinstance(image, tfds.features.Image)
        or not isinstance(label, tfds.features.ClassLabel)
        or image.np_dtype != np.uint8
        or image.shape[2] not in (1, 3)
    ):
        listed = ", ".join(
            f"{key}: {type(feature).__name__}" for key, feature in sorted(found.items())
        )
        raise UserError(
            f"{name} is no image classification data set: expected the features image "
            f"(Image, 8 bits, 1 or 3 channels) and label (ClassLabel), found "
            f"{listed or type(features).__name__}."
        )
    return image, label


def _choose_splits(
    name: str, known: Any, *, train_split: str | None, test_split: str | None
) -> dict[str, str]:
    """Returns the split of tfds for "train", "test" and perhaps "validation"."""
    _check_split_flag("train_split", train_split, name=name, known=known)
    _check_split_flag("test_split", test_split, name=name, known=known)
    if not train_split and "train" not in known:
        raise UserError(
            f"{name} has no split 'train' (it has {', '.join(known)}): pass "
            f"--train_split and --test_split."
        )
    splits = {"train": train_split or "train"}
    if test_split:
        return splits | {"test": test_split}
    labelled = [
        split
        for split in ("test", "validation")
        if split in known and _has_labels(known[split])
    ]
    if not labelled:
        raise UserError(
            f"{name} has no split 'test' with labels (it has {', '.join(known)}): pass "
            f"for example --train_split='train[:80%]' --test_split='train[80%:]'."
        )
    return splits | dict(zip(("test", "validation"), labelled, strict=False))


def _check_split_flag(flag: str, split: str | None, *, name: str, known: Any) -> None:
    """Refuses a split that tfds does not know, or that is empty."""
    if split is None:
        return
    try:
        count = known[split].num_examples
    except Exception as error:  # tfds raises anything for a split it cannot parse
        raise UserError(
            f"--{flag}={split} is no split of {name}, which has {', '.join(known)} and "
            f"parts of them such as 'train[:80%]'."
        ) from error
    if not count:
        raise UserError(f"--{flag}={split} of {name} is empty: give a larger part.")


def _has_labels(split: Any) -> bool:
    """Returns whether a tfds split has labels: withheld ones are -1."""
    for record in tf.data.TFRecordDataset([piece[0] for piece in _pieces(split)]):
        example = tf.train.Example.FromString(record.numpy())
        return example.features.feature["label"].int64_list.value[0] >= 0
    return False


def _pieces(split: Any) -> list[list[Any]]:
    """Returns [file, first record, number of records] for each file of a split."""
    return [
        [os.fspath(piece.filename), piece.skip, piece.take]
        for piece in split.file_instructions
    ]
