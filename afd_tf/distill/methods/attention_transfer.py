"""Attention transfer (AT: Zagoruyko and Komodakis, ICLR 2017)."""

from collections.abc import Sequence

import tensorflow as tf
from absl import flags

from afd_tf.distill import losses
from afd_tf.distill.feature_maps import pool_to_smallest
from afd_tf.distill.logit_distillation import logit_settings_from_flags
from afd_tf.distill.metrics import Values
from afd_tf.distill.objective import Outputs
from afd_tf.distill.offline_distillation import (
    OfflineDistillation,
    Teacher,
    single_teacher,
)
from afd_tf.models import Peer

_WEIGHT = flags.DEFINE_float(
    "attention_weight",
    1000.0,
    "Weight of the distance between the attention maps of student and teacher.",
    lower_bound=0,
)


def attention(maps: tf.Tensor) -> tf.Tensor:
    """Q(f): the mean over channels of f^2, at unit length for each image.

    Args:
      maps: [B, h, w, c].

    Returns:
      float32 [B, h w].
    """
    return losses.unit_vectors(
        tf.reduce_mean(tf.square(tf.cast(maps, tf.float32)), axis=-1)
    )


def attention_distance(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """Mean over positions of (Q(f_s) - Q(f_t))^2, [B], for maps [B, h, w, any]."""
    return losses.l2_distance(attention(student), attention(teacher))


class AttentionTransfer(OfflineDistillation):
    """L = a CE(y, z) + b T^2 KL(z_t || z) + w sum over stages (Q(f_s) - Q(f_t))^2.

    a = 1, b = 0 and w = 1000, with the mean over positions, as in the authors' code.
    Stages are paired from the last one on; larger maps are averaged down.

    Args:
      peers: the students.
      frozen_teachers: one, with maps.
      attention_weight: w.
      **kwargs: of `LogitDistillation`.

    Raises:
      UserError: several teachers, or one without maps.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        frozen_teachers: Sequence[Teacher],
        *,
        attention_weight: float = 1000.0,
        **kwargs,
    ):
        teacher = single_teacher(frozen_teachers, stages=True)
        super().__init__(peers, frozen_teachers, **kwargs)
        self.attention_weight = attention_weight
        self.pairs = [
            list(zip(peer.stages[::-1], teacher.stages[::-1], strict=False))
            for peer in peers
        ]

    def extra_losses(self, number: int, outputs: Outputs) -> Values:
        """Returns the weighted distance of the stages' attentions."""
        student, teacher = outputs[number].taps, outputs[-1].taps
        distances = [
            attention_distance(*pool_to_smallest(student[own], teacher[other]))
            for own, other in self.pairs[number]
        ]
        return {"attention": self.attention_weight * tf.add_n(distances)}


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return {
        "attention_weight": _WEIGHT.value,
        **logit_settings_from_flags(),
    }
