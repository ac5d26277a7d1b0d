"""The labels of a batch: of plain images, or of mixed ones."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf


class MixedLabels(NamedTuple):
    """The labels of images that were mixed with others, by mixup or CutMix.

    The target is (1 - weight) own + weight partner.

    Attributes:
      own: of the images themselves, int32 [B].
      partner: of the images that they were mixed with, int32 [B].
      weight: of the partner's label, float32 [B] in 0..1.
    """

    own: tf.Tensor
    partner: tf.Tensor
    weight: tf.Tensor


# int32 [B] for plain images.
Labels = tf.Tensor | MixedLabels


def labels_of(batch: Mapping[str, tf.Tensor]) -> Labels:
    """Returns the labels of a batch.

    Args:
      batch: "label", int32 [B], and for mixed images "mixed_label", int32 [B], and
        "mixed_weight", float32 [B]: see `afd_tf.data.mix.mix_batch`.
    """
    if "mixed_label" not in batch:
        return batch["label"]
    return MixedLabels(batch["label"], batch["mixed_label"], batch["mixed_weight"])


def own_labels(labels: Labels) -> tf.Tensor:
    """Returns the labels of the images themselves, int32 [B]."""
    return labels.own if isinstance(labels, MixedLabels) else labels
