import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from afd_tf.distill.balanced_accuracy import balanced_accuracy


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
