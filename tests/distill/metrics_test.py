"""Accuracies over the classes: sums in TensorFlow, and their mean."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score

from afd_tf.distill.metrics import balanced_accuracy, sums_by_class


def test_sums_by_class_by_hand():
    values = tf.constant([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    labels = tf.constant([2, 0, 2, 1])
    found = sums_by_class(values, labels, 4)
    assert found.dtype == tf.float64
    np.testing.assert_array_equal(found, [[0, 1, 2, 0], [1, 0, 2, 0]])
    # The part of a replica that has no images.
    nothing = sums_by_class(tf.zeros([2, 0]), tf.zeros([0], tf.int32), 4)
    np.testing.assert_array_equal(nothing, np.zeros([2, 4]))


def test_balanced_accuracy_leaves_out_classes_without_images():
    correct, examples = np.float64([90, 1, 0]), np.float64([100, 2, 0])
    assert balanced_accuracy(correct, examples) == pytest.approx((0.9 + 0.5) / 2)


def test_balanced_accuracy_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.choice(4, 200, p=[0.7, 0.2, 0.08, 0.02])
    predicted = np.where(generator.random(200) < 0.5, labels, 0)
    examples = np.bincount(labels)
    correct = np.bincount(labels[labels == predicted], minlength=4)
    assert balanced_accuracy(correct, examples) == pytest.approx(
        balanced_accuracy_score(labels, predicted)
    )
