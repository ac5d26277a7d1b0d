"""The losses as pure functions: per-example vectors out, no reduction, no state.

z are logits [B, classes], s are discriminator scores [B] in 0..1; all results are
float32 [B].
"""

import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """CE(y, softmax(z)).

    Args:
      labels: int32 [B].
      logits: float32 [B, classes].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def softened_divergence(
    teacher_logits: tf.Tensor,
    learner_logits: tf.Tensor,
    temperature: float,
    squared: bool = True,
) -> tf.Tensor:
    """T^2 KL(softmax(z_teacher / T) || softmax(z_learner / T)), teacher constant.

    Hinton et al. (2015) give the factor T^2; Zhang et al. (2018) the use between
    peers; Chung et al. (2020), the second term of L_logit, both together.

    Args:
      teacher_logits: float32 [B, classes]; no gradient goes through.
      learner_logits: float32 [B, classes].
      temperature: T > 0.
      squared: whether the factor T^2 is there, which keeps the gradient's size.
    """
    teacher = tf.stop_gradient(teacher_logits) / temperature
    learner = tf.nn.log_softmax(learner_logits / temperature)
    divergence = tf.reduce_sum(
        tf.nn.softmax(teacher) * (tf.nn.log_softmax(teacher) - learner), axis=-1
    )
    return temperature**2 * divergence if squared else divergence


def least_squares(scores: tf.Tensor, target: float) -> tf.Tensor:
    """(target - s)^2, the adversarial loss of Mao et al. (2017) and of AFD.

    Args:
      scores: of a discriminator, float32 [B] in 0..1.
      target: 1 for "real", 0 for "fake".
    """
    return tf.square(target - scores)


def l1_distance(learner: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """Mean of |learner - teacher| over a image's elements, teacher constant.

    Args:
      learner: [B, ...].
      teacher: [B, ...]; no gradient goes through.
    """
    return tf.reduce_mean(tf.abs(_difference(learner, teacher)), axis=-1)


def l2_distance(learner: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """Mean of (learner - teacher)^2 over a image's elements; see `l1_distance`."""
    return tf.reduce_mean(tf.square(_difference(learner, teacher)), axis=-1)


def cosine_distance(learner: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """1 - cosine of the flattened learner and teacher; see `l1_distance`."""
    product = unit_vectors(learner) * unit_vectors(tf.stop_gradient(teacher))
    return 1.0 - tf.reduce_sum(product, axis=-1)


def unit_vectors(values: tf.Tensor) -> tf.Tensor:
    """Flattens [B, ...] to float32 [B, n] of Euclidean length 1."""
    return tf.math.l2_normalize(_flat(values), axis=-1)


def _difference(learner: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    return _flat(learner) - _flat(tf.stop_gradient(teacher))


def _flat(values: tf.Tensor) -> tf.Tensor:
    """Flattens [B, ...] to float32 [B, n], also from 16-bit numbers."""
    size = values.shape[1:].num_elements()
    return tf.reshape(tf.cast(values, tf.float32), [-1, size])
