"""Rates by class: by hand, and as scikit-learn computes them."""

import numpy as np
import pytest

from afd_tf.analysis.confusion import Confusion

# Class 3 has no images, and 4 is never predicted.
BY_HAND = Confusion(
    labels=np.int32([0, 0, 0, 0, 1, 1, 2, 4, 4, 4]),
    predicted=np.int64([0, 0, 0, 1, 1, 1, 0, 1, 1, 3]),
    num_classes=5,
)


def test_rates_by_hand():
    assert BY_HAND.rates() == {
        "accuracy": 0.5,
        "balanced_accuracy": pytest.approx((3 / 4 + 1 + 0 + 0) / 4),
        "class_accuracy": [3 / 4, 1.0, 0.0, None, 0.0],
        "class_precision": [3 / 4, 2 / 5, None, 0.0, None],
    }
    assert BY_HAND.examples.tolist() == [4, 2, 1, 0, 3]
    assert BY_HAND.matrix.tolist() == [
        [3, 1, 0, 0, 0],
        [0, 2, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 2, 0, 1, 0],
    ]


def test_a_single_class_is_always_right():
    only = Confusion(np.zeros(3, np.int32), np.zeros(3, np.int64), 1)
    assert only.rates() == {
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
        "class_accuracy": [1.0],
        "class_precision": [1.0],
    }
    assert only.matrix.tolist() == [[3]]


def test_worst_and_most_confused_by_hand():
    # Neither 1, which has no mistake, nor 3, which has no image.
    assert BY_HAND.worst_classes(5) == [4, 2, 0]
    assert BY_HAND.worst_classes(1) == [4]
    assert BY_HAND.most_confused(2) == [(4, 1, 2), (0, 1, 1)]
    assert len(BY_HAND.most_confused(9)) == 4
    right = Confusion(np.arange(3), np.arange(3), 3)
    assert right.worst_classes(5) == [] and right.most_confused(5) == []


@pytest.mark.parametrize("num_classes", [2, 9, 300])
def test_rates_are_those_of_scikit_learn(num_classes):
    # A second that the collection of all tests need not take.
    from sklearn import metrics

    generator = np.random.default_rng(num_classes)
    # Unbalanced; of 300 classes, some have no images.
    labels = (num_classes * generator.random(500) ** 3).astype(np.int32)
    predicted = np.where(
        generator.random(500) < 0.6, labels, generator.integers(0, num_classes, 500)
    )
    found = Confusion(labels, predicted, num_classes)
    classes = range(num_classes)
    np.testing.assert_array_equal(
        found.matrix, metrics.confusion_matrix(labels, predicted, labels=classes)
    )
    precision, recall, _, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    # None becomes NaN.
    np.testing.assert_allclose(np.float64(found.class_accuracy), recall)
    np.testing.assert_allclose(np.float64(found.class_precision), precision)
    np.testing.assert_array_equal(found.examples, support)
    assert found.accuracy == metrics.accuracy_score(labels, predicted)
    present = np.unique(labels)
    assert found.balanced_accuracy == pytest.approx(
        # Its own mean counts what is predicted but has no images.
        metrics.recall_score(labels, predicted, labels=present, average="macro")
    )
    for pair in found.most_confused(7):
        assert found.matrix[pair.true, pair.predicted] == pair.images
    wrong = np.sort((found.matrix * (1 - np.eye(num_classes, dtype=int))).ravel())
    largest = wrong[::-1][:7]
    assert [x.images for x in found.most_confused(7)] == largest[largest > 0].tolist()


def test_a_great_many_classes_take_memory_for_the_images_alone():
    labels = np.int64([5, 5, 99_999_999])
    found = Confusion(labels, np.int64([5, 6, 0]), 100_000_000)
    assert found.most_confused(3) == [(5, 6, 1), (99_999_999, 0, 1)]
