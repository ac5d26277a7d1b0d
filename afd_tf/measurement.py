"""Measures what turns pictures into logits on a split of its data set."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags

from afd_tf import data
from afd_tf.data import DatasetInfo
from afd_tf.journal import progress
from afd_tf.runner import Runner

_EVALUATION_BATCH = 256


def dataset_from_flags(info: DatasetInfo, run_flags: Mapping[str, str]) -> data.Dataset:
    """Opens the data set of a run or an artifact, as the run did.

    Flags on the command line come first, then those of the run, then defaults. For
    another --dataset than the run's, only the size of the pictures is the run's.

    Args:
      info: the data set that was trained on.
      run_flags: of the run, as text by name.

    Raises:
      UserError: the data set cannot be had, or has other classes or pictures.
    """
    known = flags.FLAGS.flags_by_module_dict()[data.__name__]
    values = {flag.name: run_flags.get(flag.name) for flag in known}
    given = flags.FLAGS["dataset"]
    if not given.using_default_value and given.value not in (
        info.name,
        run_flags.get("dataset"),
    ):
        values = {"image_size": values["image_size"]}
    values["dataset"] = info.name
    for name in ("cache_dir", "data_dir"):
        # The run may have been on another machine.
        if values.get(name) and not Path(values[name]).is_dir():
            values[name] = None
    for name, value in values.items():
        if value is not None:
            # Leaves alone what the command line has set.
            flags.FLAGS.set_default(name, value)
    return data.from_flags(expected=info)


def measure(runner: Runner, dataset: data.Dataset, split: str = "test") -> dict:
    """Counts what each network of a runner gets right.

    Args:
      runner: what to measure.
      dataset: with the runner's classes and shape of pictures.
      split: of the data set.

    Returns:
      {"examples", "accuracy", "peers": [{"name", "accuracy"}, ...], "mean_accuracy",
      "ensemble_accuracy"}: fractions; "accuracy" is the chosen network's, and the
      ensemble is the mean of all networks' probabilities.
    """
    examples = 0
    right = np.zeros(len(runner.networks), np.int64)
    ensemble_right = 0
    batches = dataset.evaluation_batches(split, batch_size=_EVALUATION_BATCH)
    with progress(runner.description, dataset.info.examples[split]) as bar:
        for batch in batches.as_numpy_iterator():
            # Without the pictures that fill up the last batch.
            real = batch["weight"] > 0
            images, labels = batch["image"][real], batch["label"][real]
            # [networks, B, classes]
            logits = np.stack([each.logits(images) for each in runner.networks])
            right += np.sum(np.argmax(logits, axis=-1) == labels, axis=-1)
            mean = np.mean(_softmax(logits), axis=0)
            ensemble_right += np.sum(np.argmax(mean, axis=-1) == labels)
            examples += len(labels)
            bar.update(len(labels))
    accuracies = [int(count) / examples for count in right]
    return {
        "examples": examples,
        "accuracy": accuracies[runner.chosen],
        "peers": [
            {"name": network.name, "accuracy": accuracy}
            for network, accuracy in zip(runner.networks, accuracies, strict=True)
        ],
        "mean_accuracy": math.fsum(accuracies) / len(accuracies),
        "ensemble_accuracy": int(ensemble_right) / examples,
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)
