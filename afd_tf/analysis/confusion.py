"""Which classes a network recognizes, and which it takes for one another."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from afd_tf.distill.balanced_accuracy import balanced_accuracy


class ConfusedPair(NamedTuple):
    """Images of one class that were taken for another one.

    Attributes:
      true: their label.
      predicted: the label that they were given.
      images: how many.
    """

    true: int
    predicted: int
    images: int


@dataclasses.dataclass(frozen=True)
class Confusion:
    """The predictions of a network, beside the labels.

    Everything but `matrix` takes memory for the images alone, so that there may be any
    number of classes.

    Attributes:
      labels: int [N], true, at least one.
      predicted: int [N], of the same images.
      num_classes: number of labels.
    """

    labels: np.ndarray
    predicted: np.ndarray
    num_classes: int

    @functools.cached_property
    def examples(self) -> np.ndarray:
        """The number of images of each class, int [num_classes]."""
        return self._count(self.labels)

    @functools.cached_property
    def correct(self) -> np.ndarray:
        """The images of each class that are classified correctly, int [num_classes]."""
        return self._count(self.labels[self.labels == self.predicted])

    def _count(self, labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels, minlength=self.num_classes)

    @property
    def accuracy(self) -> float:
        """The fraction of images that are classified correctly, 0..1."""
        return int(np.sum(self.correct)) / len(self.labels)

    @property
    def balanced_accuracy(self) -> float:
        """The mean of `class_accuracy` over the classes that have images, 0..1."""
        return balanced_accuracy(self.correct, self.examples)

    @property
    def class_accuracy(self) -> list[float | None]:
        """Of each class's images, the fraction found (recall); None without images."""
        return _fractions(self.correct, self.examples)

    @property
    def class_precision(self) -> list[float | None]:
        """Of the images given each label, the fraction that has it; None if none is."""
        return _fractions(self.correct, self._count(self.predicted))

    @property
    def matrix(self) -> np.ndarray:
        """Counts of images, int [num_classes, num_classes]: by true, then predicted."""
        places = self.labels * np.int64(self.num_classes) + self.predicted
        counts = np.bincount(places, minlength=self.num_classes**2)
        return counts.reshape(self.num_classes, self.num_classes)

    def worst_classes(self, count: int) -> list[int]:
        """Returns up to `count` labels of the smallest `class_accuracy`, worst first.

        Classes without images, or without a mistake, are not among them; of equally bad
        ones, those of more images come first.
        """
        (faulty,) = np.nonzero(self.correct < self.examples)
        accuracy = self.correct[faulty] / self.examples[faulty]
        order = np.lexsort((faulty, -self.examples[faulty], accuracy))
        return faulty[order[:count]].tolist()

    def most_confused(self, count: int) -> list[ConfusedPair]:
        """Returns up to `count` pairs of classes of the most mistakes, most first."""
        wrong = self.labels != self.predicted
        pairs = np.stack([self.labels[wrong], self.predicted[wrong]], axis=-1)
        found, images = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-images, kind="stable")[:count]
        return [
            ConfusedPair(*found[number].tolist(), int(images[number]))
            for number in order
        ]

    def rates(self) -> dict[str, Any]:
        """Returns the accuracies as JSON values; those of classes in their order."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "class_accuracy": self.class_accuracy,
            "class_precision": self.class_precision,
        }


def _fractions(parts: np.ndarray, totals: np.ndarray) -> list[float | None]:
    """Returns parts / totals, None where a total is 0."""
    return [
        part / total if total else None
        for part, total in zip(parts.tolist(), totals.tolist(), strict=True)
    ]
