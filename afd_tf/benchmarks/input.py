"""Speed of the input of photos alone, beside plain pipelines of the same mathematics.

Compared are the training batches of `afd_tf`, a plain `tf.data` pipeline, which is
`plain_batches` below, and, where torchvision is installed, its `ImageFolder` read by a
`DataLoader` (in a process of its own, `afd_tf.benchmarks.torchvision_worker`).
"""

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from afd_tf import data
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.benchmarks import torchvision_worker
from afd_tf.benchmarks.torchvision_worker import time_batches
from afd_tf.benchmarks.worker_process import Worker
from afd_tf.data.folder_layout import SPLIT_NAMES
from afd_tf.data.image_files import find_image_files
from afd_tf.training.numerics import seed_from_flags
from afd_tf.training.strategy import batch_size_from_flags

_FOLDER = "folder:"
# Enough for buffers to be in the state in which they stay.
_WARM_UP_SECONDS = 2.0
# So many that none ends during the measurement.
_EPOCHS = 1_000_000

# Arguments of `time_batches` → its result.
Pipeline = Callable[[Mapping], Mapping]


def plain_batches(
    encoded: tf.data.Dataset, *, size: tuple[int, int], batch_size: int
) -> tf.data.Dataset:
    """Makes training batches of JPEG images as anybody would with `tf.data`.

    Args:
      encoded: endless, in random order: (contents of a file, label).
      size: height and width of the images in pixels.
      batch_size: images of a batch.

    Returns:
      elements (uint8 [B, h, w, 3], [B]).
    """

    def crop_and_flip(contents, label):
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(contents),
            tf.zeros([1, 0, 4]),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], extent[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(contents, window, channels=3)
        image = tf.image.resize(image, size, antialias=True)
        image = tf.image.random_flip_left_right(image)
        return tf.cast(tf.round(image), tf.uint8), label

    return (
        encoded.map(crop_and_flip, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def measure_input(rounds: int, steps: int) -> dict:
    """Measures the input of the data set, the batch size and the seed of the flags.

    Args:
      rounds: number of times that each pipeline is measured, interleaved.
      steps: batches of each in a round.

    Returns:
      "dataset"; "image_shape"; "batch_size"; "cores", the number of processors;
      "images_per_second", of each pipeline in each round; "ratio_of_afd_tf_to", for
      each of the others the "median", "min" and "max" of the ratios within a round.

    Raises:
      UserError: the data set is neither a folder of JPEG files nor a data set of
        tensorflow-datasets with JPEGs.
    """
    batch_size = batch_size_from_flags(tf.distribute.get_strategy())
    dataset = data.from_flags()
    size = dataset.info.image_shape[:2]
    ours = dataset.train_batches(
        batch_size=batch_size, seed=seed_from_flags(), epochs=_EPOCHS
    )
    name = dataset.info.name
    folder = train_folder(name) if name.startswith(_FOLDER) else None
    encoded = encoded_files(folder) if folder else encoded_records(name)
    plain = plain_batches(encoded, size=size, batch_size=batch_size)
    with contextlib.ExitStack() as stack:
        pipelines = {
            "afd_tf": _tensorflow_pipeline(ours, lambda batch: batch["label"]),
            "tf.data": _tensorflow_pipeline(plain, lambda batch: batch[1]),
        }
        if folder and _has_torchvision():
            task = {"folder": folder, "size": size, "batch_size": batch_size}
            command = [sys.executable, "-m", torchvision_worker.__name__]
            worker = stack.enter_context(
                Worker("torchvision", [*command, json.dumps(task)])
            )
            worker.answer()
            pipelines["torchvision"] = worker.ask
        else:
            say(
                "torchvision is left out: it reads folders only."
                if not folder
                else "torchvision is left out, as it is not installed."
            )
        rates = _measure_interleaved(pipelines, rounds, steps * batch_size)
    return {
        "dataset": name,
        "image_shape": list(dataset.info.image_shape),
        "batch_size": batch_size,
        "cores": os.cpu_count(),
        "images_per_second": {
            name: [round(rate, 1) for rate in own] for name, own in rates.items()
        },
        "ratio_of_afd_tf_to": {
            name: _summary(np.divide(rates["afd_tf"], own))
            for name, own in rates.items()
            if name != "afd_tf"
        },
    }


def train_folder(name: str) -> str:
    """Returns the folder of the training classes of the data set `folder:PATH`."""
    path = name.removeprefix(_FOLDER)
    for entry in sorted(os.listdir(path)):
        if SPLIT_NAMES.get(entry.lower()) == "train":
            return os.path.join(path, entry)
    return path


def encoded_files(folder: str) -> tf.data.Dataset:
    """Returns (contents, label) of the JPEG files of a folder, endless, shuffled.

    Args:
      folder: the folder, with one folder for each class.

    Raises:
      UserError: it holds another file, or none.
    """
    paths = find_image_files(folder)
    others = [path for path in paths if not path.lower().endswith((".jpg", ".jpeg"))]
    if others or not paths:
        raise UserError(
            f"the plain pipelines read JPEG files only, but {folder} holds "
            f"{others[0] if others else 'none'}: give a folder of JPEG files."
        )
    parents = [os.path.dirname(path) for path in paths]
    labels = np.unique(parents, return_inverse=True)[1]
    names = [os.fsencode(path) for path in paths]
    return (
        tf.data.Dataset.from_tensor_slices((names, labels))
        .shuffle(len(paths))
        .repeat()
        .map(lambda path, label: (tf.io.read_file(path), label))
    )


def encoded_records(name: str) -> tf.data.Dataset:
    """Returns (contents, label) of a data set of tfds, endless, shuffled.

    Args:
      name: of the data set, which is prepared.

    Raises:
      UserError: its images are no JPEGs.
    """
    import tensorflow_datasets as tfds

    opening = data.opening_from_flags()
    encoded = tfds.load(
        name,
        split=opening["train_split"] or "train",
        data_dir=opening["data_dir"],
        decoders={"image": tfds.decode.SkipDecoding()},
        shuffle_files=True,
    ).map(lambda example: (example["image"], example["label"]))
    contents, _ = next(iter(encoded.take(1)))
    if not tf.io.is_jpeg(contents):
        raise UserError(
            f"the plain pipeline reads JPEG images only, but those of {name} are "
            f"encoded otherwise: give a data set of photos, e.g. imagenet2012."
        )
    return encoded.shuffle(4096).repeat()


def _has_torchvision() -> bool:
    return importlib.util.find_spec("torchvision") is not None


def _tensorflow_pipeline(
    batches: tf.data.Dataset, labels: Callable[[Any], tf.Tensor]
) -> Pipeline:
    """Returns a pipeline that reads batches, whose labels the function finds."""
    sizes = (int(tf.shape(labels(batch))[0]) for batch in batches)
    return lambda request: time_batches(sizes, **request)


def _measure_interleaved(
    pipelines: Mapping[str, Pipeline], rounds: int, images: int
) -> dict[str, list[float]]:
    """Returns the images per second of each pipeline in each round."""
    rates = {name: [] for name in pipelines}
    request = {"images": images, "warm_up_seconds": _WARM_UP_SECONDS}
    for number in range(rounds):
        # The order is reversed in every other round: none is always the first.
        for name in reversed(pipelines) if number % 2 else pipelines:
            measured = pipelines[name](request)
            rates[name].append(measured["images"] / measured["seconds"])
        shown = ", ".join(f"{name} {own[-1]:.1f}" for name, own in rates.items())
        say(f"round {number + 1}, images/s: {shown}")
    return rates


def _summary(ratios: np.ndarray) -> dict[str, float]:
    return {
        "median": round(float(np.median(ratios)), 3),
        "min": round(float(np.min(ratios)), 3),
        "max": round(float(np.max(ratios)), 3),
    }
