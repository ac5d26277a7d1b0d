"""A choice of images that keeps the proportions of the classes."""

import numpy as np


def stratified_choice(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Chooses `count` positions, each class in proportion.

    Args:
      labels: int [n].
      count: how many to choose, 0..n.
      seed: the same seed makes the same choice.

    Returns:
      int64 [count], sorted.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    order = generator.permutation(len(labels))
    # Images of a class side by side, in random order, classes ascending: every
    # n/count-th of them gives each class its share to within one image.
    order = order[np.argsort(labels[order], kind="stable")]
    if count == 0:
        return np.zeros([0], np.int64)
    chosen = (np.arange(count) * len(labels) + len(labels) // 2) // count
    return np.sort(order[chosen])
