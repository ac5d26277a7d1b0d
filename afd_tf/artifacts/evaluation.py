"""Accuracy of classifiers, measured on a split of their data set."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from afd_tf import data
from afd_tf.artifacts.classifier import Classifier, ClassifierNetwork, softmax
from afd_tf.base.console import progress

_EVALUATION_BATCH = 256


def measure(classifier: Classifier, dataset: data.Dataset, split: str = "test") -> dict:
    """Measures the accuracy of each network of a classifier, and of their ensemble.

    Args:
      classifier: the classifier to measure.
      dataset: with the classifier's classes and shape of images.
      split: of the data set.

    Returns:
      {"examples", "accuracy", "peers": [{"name", "accuracy"}, ...], "mean_accuracy",
      "ensemble_accuracy"}: fractions, 0..1. "accuracy" is that of the chosen network;
      the ensemble's output is the mean of all networks' probabilities.
    """
    examples = 0
    correct = np.zeros(len(classifier.networks), np.int64)
    ensemble_correct = 0
    for labels, logits in _labels_and_logits(
        classifier.networks, dataset, split, classifier.description
    ):
        correct += np.sum(np.argmax(logits, axis=-1) == labels, axis=-1)
        mean = np.mean(softmax(logits), axis=0)
        ensemble_correct += np.sum(np.argmax(mean, axis=-1) == labels)
        examples += len(labels)
    accuracies = [int(count) / examples for count in correct]
    return {
        "examples": examples,
        "accuracy": accuracies[classifier.chosen],
        "peers": [
            {"name": network.name, "accuracy": accuracy}
            for network, accuracy in zip(classifier.networks, accuracies, strict=True)
        ],
        "mean_accuracy": math.fsum(accuracies) / len(accuracies),
        "ensemble_accuracy": int(ensemble_correct) / examples,
    }


def compare_networks(
    networks: Sequence[ClassifierNetwork], dataset: data.Dataset, split: str = "test"
) -> list[dict]:
    """Measures networks on the same images, and their differences from the first.

    Args:
      networks: the first is the reference.
      dataset: with the networks' classes and shape of images.
      split: of the data set.

    Returns:
      for each network {"examples", "accuracy", "agreement", "logit_difference"}.
      "agreement" is the fraction of images for which it predicts the same class as
      the first; "logit_difference" is the largest absolute difference of a logit from
      the first's, as a fraction of the first's largest absolute logit.
    """
    examples = 0
    correct, same = np.zeros([2, len(networks)], np.int64)
    largest, differences = 0.0, np.zeros(len(networks))
    for labels, logits in _labels_and_logits(
        networks, dataset, split, networks[0].name
    ):
        classes = np.argmax(logits, axis=-1)
        correct += np.sum(classes == labels, axis=-1)
        same += np.sum(classes == classes[0], axis=-1)
        largest = np.maximum(largest, np.max(np.abs(logits[0])))
        difference = np.max(np.abs(logits - logits[0]), axis=(1, 2))
        differences = np.maximum(differences, difference)
        examples += len(labels)
    return [
        {
            "examples": examples,
            "accuracy": int(correct[number]) / examples,
            "agreement": int(same[number]) / examples,
            "logit_difference": float(differences[number] / largest),
        }
        for number in range(len(networks))
    ]


def _labels_and_logits(
    networks: Sequence[ClassifierNetwork],
    dataset: data.Dataset,
    split: str,
    description: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields labels [B] and logits [networks, B, classes], each image once."""
    batches = dataset.evaluation_batches(split, batch_size=_EVALUATION_BATCH)
    with progress(description, dataset.info.examples[split]) as bar:
        for batch in batches.as_numpy_iterator():
            # Without the images that fill up the last batch.
            real = batch["weight"] > 0
            images, labels = batch["image"][real], batch["label"][real]
            yield labels, np.stack([each.logits(images) for each in networks])
            bar.update(len(labels))
