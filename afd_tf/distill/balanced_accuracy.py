"""The accuracy in which each class counts the same, without TensorFlow."""

import numpy as np


def balanced_accuracy(correct: np.ndarray, examples: np.ndarray) -> float:
    """Returns the mean of the classes' accuracies: each class counts the same.

    Args:
      correct: [classes], images of each class that are classified correctly.
      examples: [classes], all images of each class; classes without one do not count,
        as they have no accuracy. At least one class has images.

    Returns:
      0..1.
    """
    present = examples > 0
    return float(np.mean(correct[present] / examples[present]))
