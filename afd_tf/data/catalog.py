"""What tensorflow-datasets (tfds) knows about a data set, as plain values."""

import os
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from afd_tf.data import prepare
from afd_tf.errors import UserError, nearest


def describe(
    name: str,
    *,
    data_dir: str | None,
    download: bool,
    train_split: str | None,
    test_split: str | None,
) -> dict[str, Any]:
    """Finds a tfds data set and prepares it if need be.

    The arguments are those of `load`.

    Returns:
      JSON: "full_name"; "directory"; "shape" [h, w, c] of the pictures, h and w None
      if not known; "class_names"; "splits": for "train", "test" and perhaps
      "validation" the "name" tfds gives the split and its "pieces" [file, first
      record, number of records].

    Raises:
      UserError: the data set is unknown, cannot be had or cannot be used.
    """
    builder = _find_builder(name, data_dir)
    image, label = _image_and_label(name, builder.info.features)
    prepare.ensure_prepared(builder, name=name, download=download)
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"{name} is prepared as {builder.info.file_format.value}; only tfrecord "
            f"(the default of tfds) can be read."
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
    # tfds warns that an unprepared data set is not prepared: so do we, in one line.
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
            f"{name!r} cannot be opened by tensorflow-datasets: "
            f"{prepare.one_line(error)}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _image_and_label(name: str, features: Any) -> tuple[Any, Any]:
    """Returns the two features that make an image classification data set."""
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
    """Returns which split of tfds is which of ours."""
    _check_split(name, known, "train_split", train_split)
    _check_split(name, known, "test_split", test_split)
    if not train_split and "train" not in known:
        raise UserError(
            f"{name} has no split 'train' but {', '.join(known)}: pass --train_split "
            f"and --test_split."
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


def _check_split(name: str, known: Any, flag: str, split: str | None) -> None:
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
        raise UserError(f"--{flag}={split} of {name} is empty.")


def _has_labels(split: Any) -> bool:
    """Whether the first picture of a tfds split has one: withheld labels are -1."""
    for record in tf.data.TFRecordDataset([piece[0] for piece in _pieces(split)]):
        example = tf.train.Example.FromString(record.numpy())
        return example.features.feature["label"].int64_list.value[0] >= 0
    return False


def _pieces(split: Any) -> list[list[Any]]:
    return [
        [os.fspath(piece.filename), piece.skip, piece.take]
        for piece in split.file_instructions
    ]
