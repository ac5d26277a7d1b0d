"""Predictions and accuracy of classifiers on a split of their data set."""

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from afd_tf.artifacts.classifier import Classifier
from afd_tf.artifacts.networks import ClassifierNetwork, softmax
from afd_tf.base.console import progress
from afd_tf.data.dataset_info import DatasetInfo

# The most frequent mistakes that are named.
_NAMED = 10


class Evaluated(Protocol):
    """A data set to measure with: a `Dataset`, or without TensorFlow an `ArrayDataset`.

    Attributes:
      info: of the data set.
    """

    info: DatasetInfo

    def numpy_batches(
        self, split: str, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields images, uint8 [B, h, w, c], and their labels, int32 [B], each once."""


class Predictions(NamedTuple):
    """The classes that networks see in the images of a split.

    Attributes:
      labels: int [N], true, in the order of the split.
      networks: int [networks, N], predicted by each network.
      ensemble: int [N], predicted by the mean of all networks' probabilities.
    """

    labels: np.ndarray
    networks: np.ndarray
    ensemble: np.ndarray


def predict_split(
    classifier: Classifier, dataset: Evaluated, split: str = "test"
) -> Predictions:
    """Classifies each image of a split once, with each network of a classifier.

    Args:
      classifier: the classifier to measure.
      dataset: with the classifier's classes and shape of images.
      split: of the data set.
    """
    labels, networks, ensemble = [], [], []
    for batch_labels, logits in _labels_and_logits(
        classifier.networks, dataset, split, classifier.description
    ):
        labels.append(batch_labels)
        networks.append(np.argmax(logits, axis=-1))
        ensemble.append(np.argmax(np.mean(softmax(logits), axis=0), axis=-1))
    return Predictions(
        np.concatenate(labels),
        np.concatenate(networks, axis=-1),
        np.concatenate(ensemble),
    )


def compare_networks(
    networks: Sequence[ClassifierNetwork], dataset: Evaluated, split: str = "test"
) -> list[dict]:
    """Measures networks on the same images, and their differences from the first.

    Args:
      networks: the first is the reference.
      dataset: with the networks' classes and shape of images.
      split: of the data set.

    Returns:
      for each network {"examples", "accuracy", "agreement", "probability_difference"};
      for the first one also {"class_examples", "class_accuracy": of each class, None
      where it has no images, "most_confused": [[true label, predicted label, images],
      ...], the most frequent mistakes}.
      "agreement" is the fraction of images for which it predicts the same class as
      the first; "probability_difference" is the largest absolute difference, 0..1, of
      the probability of a class from the first's. (Logits are not compared, as
      formats that give probabilities alone leave a constant of them open.)
    """
    examples = 0
    correct, same = np.zeros([2, len(networks)], np.int64)
    differences = np.zeros(len(networks))
    class_examples, found = np.zeros([2, dataset.info.num_classes], np.int64)
    mistakes: collections.Counter[tuple[int, int]] = collections.Counter()
    for labels, logits in _labels_and_logits(
        networks, dataset, split, networks[0].name
    ):
        classes = np.argmax(logits, axis=-1)
        correct += np.sum(classes == labels, axis=-1)
        same += np.sum(classes == classes[0], axis=-1)
        probabilities = softmax(np.float64(logits))
        difference = np.max(np.abs(probabilities - probabilities[0]), axis=(1, 2))
        differences = np.maximum(differences, difference)
        examples += len(labels)
        np.add.at(class_examples, labels, 1)
        np.add.at(found, labels, classes[0] == labels)
        wrong = classes[0] != labels
        mistakes.update(
            zip(labels[wrong].tolist(), classes[0][wrong].tolist(), strict=True)
        )
    results: list[dict] = [
        {
            "examples": examples,
            "accuracy": int(correct[number]) / examples,
            "agreement": int(same[number]) / examples,
            "probability_difference": float(differences[number]),
        }
        for number in range(len(networks))
    ]
    ordered = sorted(mistakes.items(), key=lambda each: (-each[1], each[0]))
    results[0] |= {
        "class_examples": class_examples.tolist(),
        "class_accuracy": [
            right / all_of_it if all_of_it else None
            for right, all_of_it in zip(
                found.tolist(), class_examples.tolist(), strict=True
            )
        ],
        "most_confused": [[*pair, images] for pair, images in ordered[:_NAMED]],
    }
    return results


def _labels_and_logits(
    networks: Sequence[ClassifierNetwork],
    dataset: Evaluated,
    split: str,
    description: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields labels [B] and logits [networks, B, classes], each image once."""
    batches = dataset.numpy_batches(split, batch_size=dataset.info.evaluation_batch)
    with progress(description, dataset.info.examples[split]) as bar:
        for images, labels in batches:
            yield labels, np.stack([each.logits(images) for each in networks])
            bar.update(len(labels))
