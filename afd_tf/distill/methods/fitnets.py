"""FitNets: hints for thin deep nets (Romero et al., ICLR 2015)."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.base.errors import unknown_name
from afd_tf.distill import losses
from afd_tf.distill.feature_maps import pool_to_smallest
from afd_tf.distill.labels import Labels
from afd_tf.distill.logit_distillation import logit_settings_from_flags
from afd_tf.distill.metrics import Values
from afd_tf.distill.objective import Objective, Outputs, Pass, Warmup
from afd_tf.distill.offline_distillation import (
    OfflineDistillation,
    Teacher,
    single_teacher,
)
from afd_tf.models import Peer, PeerOutput
from afd_tf.models.layers import ConvolutionBlock

_HINT = flags.DEFINE_string(
    "fitnets_hint",
    "stage_2",
    "Name, in student and teacher, of the feature map that --method=fitnets compares.",
)
_WEIGHT = flags.DEFINE_float(
    "fitnets_weight",
    100.0,
    "Weight of the distance between the feature maps of --fitnets_hint.",
    lower_bound=0,
)
_HINT_EPOCHS = flags.DEFINE_integer(
    "fitnets_hint_epochs",
    0,
    "0 makes the hint a part of the loss throughout; N is the paper's way: N epochs "
    "train the layers up to the hint alone, before those of --epochs without it.",
    lower_bound=0,
)


class FitNets(OfflineDistillation):
    """L = a CE(y, z) + b T^2 KL(z_t || z) + w mean (r(f_s) - f_t)^2 at one inner map.

    The regressor r (1x1 convolution, batch normalization, ReLU) leads to the teacher's
    channels; larger maps are averaged down. One stage with w = 100, a = 1, b = 0 at
    the second stage is the form of Tian et al. (2020). With `hint_epochs` it is the
    original's two stages: first the hint alone, which moves r and the student up to
    the hint, then the loss without it.

    Args:
      peers: the students.
      frozen_teachers: one, with maps.
      hint: name of the map.
      hint_weight: w.
      hint_epochs: length of the first of two stages; 0 is one stage.
      **kwargs: of `LogitDistillation`.

    Raises:
      UserError: several teachers, one without maps, or no map of that name.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        frozen_teachers: Sequence[Teacher],
        *,
        hint: str = "stage_2",
        hint_weight: float = 100.0,
        hint_epochs: int = 0,
        **kwargs,
    ):
        teacher = single_teacher(frozen_teachers)
        for network in (*peers, teacher):
            if hint not in network.tap_shapes:
                raise unknown_name(f"map of {network.name}", hint, network.tap_shapes)
        super().__init__(peers, frozen_teachers, **kwargs)
        self.hint = hint
        self.hint_weight = hint_weight
        self.regressors = []
        for peer in peers:
            layer = ConvolutionBlock(teacher.tap_shapes[hint][-1], kernel_size=1)
            layer(tf.zeros([1, *peer.tap_shapes[hint]]))
            self.regressors.append(layer)
        if hint_epochs:
            self.warmup = Warmup(
                hint_epochs,
                self._hint_objectives(),
                [Pass(self.hint_outputs, self.hint_losses)],
            )

    def extra_losses(self, number: int, outputs: Outputs) -> Values:
        """Returns the weighted hint, unless it had its own epochs."""
        if self.warmup:
            return {}
        return {"hint": self.hint_weight * self._distance(number, outputs)}

    def extra_variables(self, number: int) -> Sequence[keras.Variable]:
        """Returns the regressor, unless it had its own epochs."""
        if self.warmup:
            return []
        return self.regressors[number].trainable_variables

    def hint_outputs(self, images: tf.Tensor) -> Outputs:
        """Returns the students' maps up to the hint; the layers above do not run."""
        taps = [peer.taps(images, True, last=self.hint) for peer in self.peers]
        return [PeerOutput(None, None, maps) for maps in taps]

    def hint_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns the distance from the hint alone."""
        return {
            f"peer_{number}/hint": self._distance(number, outputs)
            for number in range(len(self.peers))
        }, {}

    def _hint_objectives(self) -> Sequence[Objective]:
        """Returns an objective on each regressor and its student up to the hint."""
        objectives = []
        for number, peer in enumerate(self.peers):
            variables = [*self.regressors[number].trainable_variables]
            for name, layer in peer.body.items():
                variables += layer.trainable_variables
                if name == self.hint:
                    break
            objectives.append(
                Objective(f"peer_{number}", "hint", variables, self.recipe)
            )
        return objectives

    def _distance(self, number: int, outputs: Outputs) -> tf.Tensor:
        student = self.regressors[number](
            outputs[number].taps[self.hint], training=True
        )
        return losses.l2_distance(
            *pool_to_smallest(student, outputs[-1].taps[self.hint])
        )


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return {
        "hint": _HINT.value,
        "hint_weight": _WEIGHT.value,
        "hint_epochs": _HINT_EPOCHS.value,
        **logit_settings_from_flags(),
    }
