"""Training images with which quantized formats are calibrated."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from afd_tf import data
from afd_tf.data.stratification import stratified_choice

# Fixed, so that the same run always gives the same files.
_SEED = 0
_READ_BATCH = 256


class Calibration(NamedTuple):
    """Calibration images, and their description for the manifest.

    Attributes:
      images: uint8 [n, h, w, c], raw pixels.
      description: {"split", "count", "seed", "classes": how many there are,
        "images_per_class": [fewest, most]}.
    """

    images: np.ndarray
    description: Mapping[str, Any]


def calibration_images(dataset: data.Dataset, count: int) -> Calibration:
    """Chooses training images, always the same ones, each class in proportion.

    They are not augmented. The split is read twice: the first time for the labels.

    Args:
      dataset: its training images are read.
      count: how many to choose; at most all.
    """

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return dataset.numpy_batches("train", batch_size=_READ_BATCH)

    labels = np.concatenate([labels for _, labels in batches()])
    count = min(count, len(labels))
    chosen = np.zeros(len(labels), bool)
    chosen[stratified_choice(labels, count, seed=_SEED)] = True
    selected, start = [], 0
    for images, _ in batches():
        selected.append(images[chosen[start : start + len(images)]])
        start += len(images)
    _, per_class = np.unique(labels[chosen], return_counts=True)
    return Calibration(
        np.concatenate(selected),
        {
            "split": "train",
            "count": count,
            "seed": _SEED,
            "classes": len(per_class),
            "images_per_class": [int(per_class.min()), int(per_class.max())],
        },
    )
