"""Measures what turns pictures into logits on a split of its data set."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from afd_tf import data
from afd_tf.data import DatasetInfo
from afd_tf.journal import progress
from afd_tf.runner import Network, Runner

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
    for labels, logits in _run(runner.networks, dataset, split, runner.description):
        right += np.sum(np.argmax(logits, axis=-1) == labels, axis=-1)
        mean = np.mean(softmax(logits), axis=0)
        ensemble_right += np.sum(np.argmax(mean, axis=-1) == labels)
        examples += len(labels)
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


def compare(
    networks: Sequence[Network], dataset: data.Dataset, split: str = "test"
) -> list[dict]:
    """Measures networks on the same pictures, and how far they are from the first.

    Args:
      networks: the first is what the others stand for.
      dataset: with the networks' classes and shape of pictures.
      split: of the data set.

    Returns:
      for each network {"examples", "accuracy", "agreement": the fraction of pictures
      of which it says the same class as the first, "logit_difference": the largest
      difference of a logit from the first's, as a fraction of the first's largest
      logit}.
    """
    examples = 0
    right, same = np.zeros([2, len(networks)], np.int64)
    largest, differences = 0.0, np.zeros(len(networks))
    for labels, logits in _run(networks, dataset, split, networks[0].name):
        classes = np.argmax(logits, axis=-1)
        right += np.sum(classes == labels, axis=-1)
        same += np.sum(classes == classes[0], axis=-1)
        largest = np.maximum(largest, np.max(np.abs(logits[0])))
        difference = np.max(np.abs(logits - logits[0]), axis=(1, 2))
        differences = np.maximum(differences, difference)
        examples += len(labels)
    return [
        {
            "examples": examples,
            "accuracy": int(right[number]) / examples,
            "agreement": int(same[number]) / examples,
            "logit_difference": float(differences[number] / largest),
        }
        for number in range(len(networks))
    ]


def _run(
    networks: Sequence[Network], dataset: data.Dataset, split: str, description: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields labels [B] and logits [networks, B, classes] of each picture once."""
    batches = dataset.evaluation_batches(split, batch_size=_EVALUATION_BATCH)
    with progress(description, dataset.info.examples[split]) as bar:
        for batch in batches.as_numpy_iterator():
            # Without the pictures that fill up the last batch.
            real = batch["weight"] > 0
            images, labels = batch["image"][real], batch["label"][real]
            yield labels, np.stack([each.logits(images) for each in networks])
            bar.update(len(labels))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities along the last axis."""
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)
