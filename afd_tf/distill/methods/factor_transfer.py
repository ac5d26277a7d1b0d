"""Factor transfer (FT: Kim, Park and Kwak, NeurIPS 2018), as in the authors' code."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.distill import losses
from afd_tf.distill.feature_maps import pool_to_smallest
from afd_tf.distill.labels import Labels
from afd_tf.distill.logit_distillation import logit_settings_from_flags
from afd_tf.distill.metrics import Values
from afd_tf.distill.objective import (
    Objective,
    Outputs,
    Pass,
    Warmup,
    no_outputs,
)
from afd_tf.distill.offline_distillation import (
    OfflineDistillation,
    Teacher,
    single_teacher,
)
from afd_tf.models import Peer
from afd_tf.models.layers import he_normal
from afd_tf.models.stage import Stage

_WEIGHT = flags.DEFINE_float(
    "factor_weight",
    500.0,
    "Weight of the distance between the factors of student and teacher.",
    lower_bound=0,
)
_RATE = flags.DEFINE_float(
    "factor_rate",
    0.5,
    "Channels of a factor, as a fraction of those of the teacher's map.",
)
_EPOCHS = flags.DEFINE_integer(
    "factor_paraphraser_epochs",
    5,
    "Number of epochs, before those of --epochs, that train the paraphraser of "
    "--method=factor_transfer.",
    lower_bound=1,
)


def factor_distance(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """Mean of |n(F_s) - n(F_t)|; n brings a image's whole factor to length 1.

    Args:
      student: [B, h, w, c].
      teacher: [B, h, w, c], constant.

    Returns:
      float32 [B].
    """
    return losses.l1_distance(
        losses.unit_vectors(student), losses.unit_vectors(teacher)
    )


def _convolutions(channels: Sequence[int], transposed: bool = False) -> Stage:
    """Returns 3x3 convolutions, each with a bias and LeakyReLU 0.1."""
    kind = keras.layers.Conv2DTranspose if transposed else keras.layers.Conv2D
    return Stage(
        [
            kind(
                filters,
                3,
                padding="same",
                activation=leaky_relu,
                kernel_initializer=he_normal(),
            )
            for filters in channels
        ]
    )


def leaky_relu(values: tf.Tensor) -> tf.Tensor:
    """LeakyReLU with the slope of the authors' code."""
    return tf.nn.leaky_relu(values, alpha=0.1)


class FactorTransfer(OfflineDistillation):
    """L = a CE(y, z) + b T^2 KL(z_t || z) + w mean |n(F_s) - n(F_t)|.

    F_t is the teacher's last map through a paraphraser: the encoder of an autoencoder
    that is trained first, without labels, on the L1 error of its reconstruction. F_s
    is the student's through a translator that trains along. Both are three 3x3
    convolutions. a = 1, b = 0, w = 500.

    Args:
      peers: the students.
      frozen_teachers: one, with maps.
      factor_weight: w.
      factor_rate: the factor's channels as a part of the teacher's.
      paraphraser_epochs: length of the warm-up that trains the paraphraser.
      **kwargs: of `LogitDistillation`.

    Raises:
      UserError: several teachers, or one without maps.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        frozen_teachers: Sequence[Teacher],
        *,
        factor_weight: float = 500.0,
        factor_rate: float = 0.5,
        paraphraser_epochs: int = 5,
        **kwargs,
    ):
        teacher = single_teacher(frozen_teachers)
        super().__init__(peers, frozen_teachers, **kwargs)
        self.factor_weight = factor_weight
        wide = teacher.feature_shape[-1]
        narrow = max(1, round(wide * factor_rate))
        self.encoder = _convolutions([wide, narrow, narrow])
        self.decoder = _convolutions([narrow, wide, wide], transposed=True)
        self.decoder(self.encoder(tf.zeros([1, *teacher.feature_shape])))
        self.translators = []
        for peer in peers:
            own = peer.feature_shape[-1]
            self.translators.append(_convolutions([own, narrow, narrow]))
            self.translators[-1](tf.zeros([1, *peer.feature_shape]))
        paraphraser = Objective(
            "teacher_0",
            "paraphraser",
            self.encoder.trainable_variables + self.decoder.trainable_variables,
            dataclasses.replace(self.recipe, drops=()),
        )
        self.warmup = Warmup(
            paraphraser_epochs,
            [paraphraser],
            [Pass(no_outputs, self.paraphraser_losses)],
        )

    def paraphraser_losses(
        self, labels: Labels, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns the L1 error of the reconstruction of the teacher's map."""
        features = outputs[-1].features
        rebuilt = self.decoder(self.encoder(features))
        return {"teacher_0/paraphraser": losses.l1_distance(rebuilt, features)}, {}

    def extra_losses(self, number: int, outputs: Outputs) -> Values:
        """Returns the weighted distance of the factors."""
        student = self.translators[number](outputs[number].features)
        teacher = self.encoder(outputs[-1].features)
        distance = factor_distance(*pool_to_smallest(student, teacher))
        return {"factor": self.factor_weight * distance}

    def extra_variables(self, number: int) -> Sequence[keras.Variable]:
        """Returns the translator."""
        return self.translators[number].trainable_variables


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return {
        "factor_weight": _WEIGHT.value,
        "factor_rate": _RATE.value,
        "paraphraser_epochs": _EPOCHS.value,
        **logit_settings_from_flags(),
    }
