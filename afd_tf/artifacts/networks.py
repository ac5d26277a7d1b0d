"""A network as a function from images to logits, whatever runs it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class ClassifierNetwork(NamedTuple):
    """One network of a classifier.

    Attributes:
      name: of the peer.
      logits: maps uint8 [B, h, w, c] to float32 [B, classes], for any B.
    """

    name: str
    logits: Callable[[np.ndarray], np.ndarray]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities along the last axis, in the dtype of the logits."""
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)


def logits_of(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the logits, float32 [B, classes], of what a network has answered.

    Where it gives probabilities alone, their logarithms are logits as well: they differ
    from the network's own by a constant for each image, which softmax takes away. The
    least that float32 tells from zero, 1e-38, stands for a probability of zero.

    Args:
      outputs: "logits" or "probabilities", float32 [B, classes], by name.
    """
    if "logits" in outputs:
        return outputs["logits"]
    probabilities = outputs["probabilities"]
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
