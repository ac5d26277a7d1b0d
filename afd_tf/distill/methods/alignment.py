"""Direct alignment of feature maps, with which AFD is compared in its Table 1."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.base.errors import unknown_name
from afd_tf.distill import losses
from afd_tf.distill.feature_maps import pool_to_smallest
from afd_tf.distill.labels import Labels
from afd_tf.distill.methods import dml
from afd_tf.distill.methods.afd import ADAM_RECIPE, adam_recipe_from_flags
from afd_tf.distill.metrics import Values
from afd_tf.distill.objective import Objective, Outputs, Pass
from afd_tf.distill.recipes import Recipe
from afd_tf.distill.update_order import (
    check_update_order,
    merge_losses,
    update_order_from_flags,
)
from afd_tf.models import Peer
from afd_tf.models.discriminator import build_transfer_layers

_DISTANCE = flags.DEFINE_string(
    "alignment_distance",
    "l1",
    "Distance between two peers' feature maps that --method=alignment minimizes: l1, "
    "l2 or cosine.",
)
_WEIGHT = flags.DEFINE_float(
    "alignment_weight", 1.0, "Weight of --alignment_distance.", lower_bound=0
)
_OPTIMIZER = flags.DEFINE_string(
    "alignment_optimizer",
    "sgd",
    "The optimizer that minimizes --alignment_distance: sgd makes it part of the logit "
    "loss; adam gives it optimizers of its own, with the settings of "
    "--afd_learning_rate, --afd_weight_decay and --afd_learning_rate_drops.",
)

DISTANCES = {
    "l1": losses.l1_distance,
    "l2": losses.l2_distance,
    "cosine": losses.cosine_distance,
}
OPTIMIZERS = ("sgd", "adam")


class FeatureAlignment(dml.MutualLearning):
    """Mutual learning of logits, and feature maps drawn directly to each other's.

    For learner k with teachers j, feature map F and transfer layer M (the identity
    where all channels agree):

        L_k = L_logit,k + w * mean over j of d(M_k(F_k), M_j(F_j)), the latter constant

    That it was compared with is confirmed; the weight (1), the reduction (the mean
    over elements) and the optimizer are inferred. Larger maps are averaged down as in
    AFD. `logit_weight=0` is the table's "L1", 1 its "L1 + KD".

    Args:
      peers: two or more.
      distance: d: "l1", "l2" or "cosine".
      weight: w.
      optimizer: "sgd": the distance is part of L_k; "adam": an objective of its own.
      adam_recipe: of the latter.
      update_order: with "adam": "simultaneous", one forward pass for both losses, or
        "sequential", one for the logits and then one for the distance.
      **kwargs: of `MutualLearning`.

    Raises:
      UserError: an unknown distance, optimizer or update order; see `MutualLearning`.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        distance: str = "l1",
        weight: float = 1.0,
        optimizer: str = "sgd",
        update_order: str = "simultaneous",
        adam_recipe: Recipe = ADAM_RECIPE,
        **kwargs,
    ):
        if distance not in DISTANCES:
            raise unknown_name("alignment distance", distance, DISTANCES)
        if optimizer not in OPTIMIZERS:
            raise unknown_name("alignment optimizer", optimizer, OPTIMIZERS)
        check_update_order(update_order)
        super().__init__(peers, **kwargs)
        self.distance = DISTANCES[distance]
        self.weight = weight
        self.own_optimizer = optimizer == "adam"
        self.adam_recipe = adam_recipe
        self.update_order = update_order
        widest = max(peer.feature_shape[-1] for peer in peers)
        self.transfer_layers = build_transfer_layers(peers, widest)

    def logit_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns L_k, with the distance in it unless that has its own optimizer."""
        values, monitors = super().logit_losses(labels, outputs)
        if not self.own_optimizer:
            for number, distance in enumerate(self._distances(outputs)):
                values[f"peer_{number}/logit"] += distance
                monitors[f"peer_{number}/loss_alignment"] = distance
        return values, monitors

    def extra_variables(self, number: int) -> Sequence[keras.Variable]:
        """Returns the transfer layer, which the distance trains."""
        return [] if self.own_optimizer else self._transfer_variables(number)

    def make_objectives(self) -> Sequence[Objective]:
        """Returns L_k of each peer, then the distance if it has its own optimizer."""
        distances = [
            Objective(
                f"peer_{number}",
                "alignment",
                [*peer.feature_variables, *self._transfer_variables(number)],
                self.adam_recipe,
            )
            for number, peer in enumerate(self.peers)
        ]
        own = distances if self.own_optimizer else []
        return [*super().make_objectives(), *own]

    def passes(self) -> Sequence[Pass]:
        """Returns the forward pass of all losses, or one each for logits and maps."""
        if self.update_order == "simultaneous" or not self.own_optimizer:
            return super().passes()
        return [
            Pass(self.training_outputs, losses_of_pass)
            for losses_of_pass in (self.logit_losses, self.feature_losses)
        ]

    def compute_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns L_k and, if it has its own optimizer, the distance of each peer."""
        return merge_losses(
            self.logit_losses(labels, outputs), self.feature_losses(labels, outputs)
        )

    def feature_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns the distance of each peer, if it has its own optimizer."""
        if not self.own_optimizer:
            return {}, {}
        distances = enumerate(self._distances(outputs))
        return {f"peer_{number}/alignment": each for number, each in distances}, {}

    def _transfer_variables(self, number: int) -> list[keras.Variable]:
        layers = self.transfer_layers[number : number + 1]
        return [variable for layer in layers for variable in layer.trainable_variables]

    def _distances(self, outputs: Outputs) -> list[tf.Tensor]:
        maps = pool_to_smallest(*(output.features for output in outputs))
        for number, layer in enumerate(self.transfer_layers):
            maps[number] = layer(maps[number], training=True)
        return [
            self.weight
            * tf.add_n([self.distance(maps[number], maps[j]) for j in teachers])
            / len(teachers)
            for number, teachers in enumerate(self.teachers)
        ]


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return {
        "distance": _DISTANCE.value,
        "weight": _WEIGHT.value,
        "optimizer": _OPTIMIZER.value,
        "adam_recipe": adam_recipe_from_flags(),
        "update_order": update_order_from_flags(),
        **dml.settings_from_flags(),
    }
