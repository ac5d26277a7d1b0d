"""Objectives of a method: losses, each with its own variables and optimizer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from afd_tf.distill.labels import Labels
from afd_tf.distill.metrics import Values
from afd_tf.distill.recipes import Recipe
from afd_tf.models import PeerOutput

# One for each peer, then one for each frozen teacher.
Outputs = Sequence[PeerOutput]
# Losses by the names of their objectives, and monitors: [B] each, or vectors of other
# lengths whose sum counts.
LossFunction = Callable[[Labels, Outputs], tuple[Values, Values]]


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A loss, the variables that it may move, and the optimizer that moves them.

    Attributes:
      owner: the network that the loss belongs to, "peer_<k>" or "teacher_<k>", or
        "ensemble".
      loss: one word, e.g. "logit".
      variables: the only ones that are moved.
      recipe: of the optimizer.
      optimizer: built on exactly these variables; None until the method is compiled.
    """

    owner: str
    loss: str
    variables: Sequence[keras.Variable]
    recipe: Recipe
    optimizer: keras.optimizers.Optimizer | None = None

    @property
    def name(self) -> str:
        """The name of the loss in the dictionaries of losses, e.g. "peer_0/logit"."""
        return f"{self.owner}/{self.loss}"

    def metric(self, quantity: str) -> str:
        """Returns a metric's name, e.g. "peer_0/gradient_norm_logit"."""
        return f"{self.owner}/{quantity}_{self.loss}"

    def compiled(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        scales_loss: bool,
        rate_factors: Sequence[float] | None = None,
    ) -> "Objective":
        """Returns the objective with its optimizer.

        Args:
          epochs: the length of the part of the run in which it is minimized.
          steps_per_epoch: training steps of an epoch.
          scales_loss: whether the optimizer keeps a loss scale, for float16.
          rate_factors: of the learning rate, one for each variable; None is 1 for all.
        """
        optimizer = self.recipe.build(
            epochs, steps_per_epoch, f"{self.owner}_{self.loss}"
        )
        optimizer.scales_loss = scales_loss
        optimizer.rate_factors = rate_factors and tuple(rate_factors)
        optimizer.build(self.variables)
        return dataclasses.replace(self, optimizer=optimizer)


class Pass(NamedTuple):
    """A forward pass of the peers, and the losses that are computed from it.

    Attributes:
      forward: of raw pixels uint8 [B, h, w, c], in training mode.
      losses: of labels and of what `forward` and the teachers returned.
    """

    forward: Callable[[tf.Tensor], Outputs]
    losses: LossFunction


@dataclasses.dataclass(frozen=True, eq=False)
class Warmup:
    """Epochs before the run proper, in which something else is trained.

    Attributes:
      epochs: how many, above 0.
      objectives: what is minimized in them.
      passes: as `Method.passes`, for a step of the warm-up.
    """

    epochs: int
    objectives: Sequence[Objective]
    passes: Sequence[Pass]


def no_outputs(images: tf.Tensor) -> Outputs:
    """The forward pass of a warm-up that needs nothing of the peers."""
    del images
    return []
