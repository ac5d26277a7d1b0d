"""Accuracies of each example beside the losses of a step, and sums over the classes."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from afd_tf.distill.labels import Labels, own_labels

# Per-example values by name, [B] each.
Values = Mapping[str, tf.Tensor]


def top1_correct(labels: Labels, scores: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 where the largest of the scores is the label's, else 0.0.

    Args:
      labels: int32 [B], or `MixedLabels`, of which the images' own labels count.
      scores: float [B, classes]: logits or probabilities.

    Returns:
      float32 [B].
    """
    labels = own_labels(labels)
    return tf.cast(
        tf.argmax(scores, axis=-1, output_type=labels.dtype) == labels, tf.float32
    )


def sums_by_class(values: tf.Tensor, labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Adds up values of examples over the examples of each class.

    Args:
      values: float32 [n, B], n values of each example.
      labels: int32 [B].
      num_classes: number of labels.

    Returns:
      float64 [n, num_classes]; counts are exact.
    """
    # A product, as a scattered sum has no fixed order on a GPU.
    members = tf.one_hot(labels, num_classes, dtype=tf.float64)  # [B, num_classes]
    return tf.matmul(tf.cast(values, tf.float64), members)


def discriminator_monitors(
    owner: str,
    on_real: tf.Tensor,
    on_fake: tf.Tensor,
    weights: Sequence[tf.Tensor | float] = (1.0, 1.0),
) -> Values:
    """Returns the accuracy of a discriminator, on real maps, on fake ones, on both.

    Args:
      owner: "peer_<k>".
      on_real: bool [n], whether it is right about each real map.
      on_fake: bool [m], whether it is right about each fake one.
      weights: of a real and of a fake map, float32 scalars or [n] and [m]; those of the
        real ones, and those of the fake ones, add up to the size of the batch.
    """
    on_real, on_fake = (
        weight * tf.cast(right, tf.float32)
        for weight, right in zip(weights, (on_real, on_fake), strict=True)
    )
    name = f"{owner}/discriminator_accuracy"
    return {
        f"{name}_real": on_real,
        f"{name}_fake": on_fake,
        name: tf.concat([on_real, on_fake], axis=0) / 2.0,
    }
