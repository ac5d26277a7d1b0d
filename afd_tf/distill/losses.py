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
    teacher_logits: tf.Tensor, learner_logits: tf.Tensor, temperature: float
) -> tf.Tensor:
    """T^2 KL(softmax(z_teacher / T) || softmax(z_learner / T)), teacher constant.

    Hinton et al. (2015) give the factor T^2; Zhang et al. (2018) the use between
    peers; Chung et al. (2020), the second term of L_logit, both together.

    Args:
      teacher_logits: float32 [B, classes]; no gradient goes through.
      learner_logits: float32 [B, classes].
      temperature: T > 0.
    """
    teacher = tf.stop_gradient(teacher_logits) / temperature
    learner = tf.nn.log_softmax(learner_logits / temperature)
    divergence = tf.reduce_sum(
        tf.nn.softmax(teacher) * (tf.nn.log_softmax(teacher) - learner), axis=-1
    )
    return temperature**2 * divergence


def discriminator_loss(real_scores: tf.Tensor, fake_scores: tf.Tensor) -> tf.Tensor:
    """L_D = (1 - s_real)^2 + s_fake^2: least squares (Chung et al. 2020).

    Real is the other network's map, fake the own one's.
    """
    return tf.square(1.0 - real_scores) + tf.square(fake_scores)


def fooling_loss(fake_scores: tf.Tensor) -> tf.Tensor:
    """L_G = (1 - s_fake)^2: the own map should pass for the other's."""
    return tf.square(1.0 - fake_scores)
