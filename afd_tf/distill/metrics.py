"""The accuracies of each example that a training step reports beside its losses."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

# Per-example values by name, [B] each.
Values = Mapping[str, tf.Tensor]


def top1_correct(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 where the largest of the scores is the label's, else 0.0.

    Args:
      labels: int32 [B].
      scores: float [B, classes]: logits or probabilities.

    Returns:
      float32 [B].
    """
    return tf.cast(
        tf.argmax(scores, axis=-1, output_type=labels.dtype) == labels, tf.float32
    )


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
