"""Direct alignment of feature maps: what AFD is compared with in its Table 1."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.distill import losses
from afd_tf.distill.afd import ADAM_RECIPE, adversarial_settings_from_flags
from afd_tf.distill.dml import MutualLearning, mutual_settings_from_flags
from afd_tf.distill.method import Outputs, Plan, Values
from afd_tf.distill.offline import of_equal_size
from afd_tf.distill.optimizers import Recipe
from afd_tf.errors import unknown_name
from afd_tf.models import Peer
from afd_tf.models.discriminator import build_transfer_layers

_DISTANCE = flags.DEFINE_string(
    "alignment_distance", "l1", "Between two peers' maps: l1, l2 or cosine."
)
_WEIGHT = flags.DEFINE_float(
    "alignment_weight", 1.0, "Of that distance in the loss.", lower_bound=0
)
_OPTIMIZER = flags.DEFINE_string(
    "alignment_optimizer",
    "sgd",
    "sgd: the distance is part of the logit loss; adam: it has Adams of its own, with "
    "the settings of --afd_learning_rate and its like.",
)

DISTANCES = {
    "l1": losses.l1_distance,
    "l2": losses.l2_distance,
    "cosine": losses.cosine_distance,
}
OPTIMIZERS = ("sgd", "adam")


class FeatureAlignment(MutualLearning):
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
      **kwargs: of `MutualLearning`.

    Raises:
      UserError: an unknown distance or optimizer; and see `MutualLearning`.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        distance: str = "l1",
        weight: float = 1.0,
        optimizer: str = "sgd",
        adam_recipe: Recipe = ADAM_RECIPE,
        **kwargs,
    ):
        if distance not in DISTANCES:
            raise unknown_name("alignment distance", distance, DISTANCES)
        if optimizer not in OPTIMIZERS:
            raise unknown_name("alignment optimizer", optimizer, OPTIMIZERS)
        super().__init__(peers, **kwargs)
        self.distance = DISTANCES[distance]
        self.weight = weight
        self.own_optimizer = optimizer == "adam"
        self.adam_recipe = adam_recipe
        widest = max(peer.feature_shape[-1] for peer in peers)
        self.transfer_layers = build_transfer_layers(peers, widest)

    def logit_losses(
        self, labels: tf.Tensor, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns L_k, with the distance in it unless that has its own optimizer."""
        values, monitors = super().logit_losses(labels, outputs)
        if not self.own_optimizer:
            for number, distance in enumerate(self._distances(outputs)):
                values[f"peer_{number}/logit"] += distance
                monitors[f"peer_{number}/loss_alignment"] = distance
        return values, monitors

    def companions(self, number: int) -> Sequence[keras.Variable]:
        """Returns the transfer layer, which the distance trains."""
        return [] if self.own_optimizer else self._transfer_variables(number)

    def feature_objectives(self) -> Sequence[Plan]:
        """Returns the distance of each peer, if it has its own optimizer."""
        if not self.own_optimizer:
            return ()
        return [
            (
                f"peer_{number}/alignment",
                [*peer.feature_variables, *self._transfer_variables(number)],
                self.adam_recipe,
            )
            for number, peer in enumerate(self.peers)
        ]

    def feature_losses(
        self, labels: tf.Tensor, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns the distance of each peer, if it has its own optimizer."""
        if not self.own_optimizer:
            return {}, {}
        distances = enumerate(self._distances(outputs))
        return {f"peer_{number}/alignment": each for number, each in distances}, {}

    def _transfer_variables(self, number: int) -> list[keras.Variable]:
        layers = self.transfer_layers[number : number + 1]
        return [variable for layer in layers for variable in layer.trainable_variables]

    def _distances(self, outputs: Outputs) -> list[tf.Tensor]:
        maps = of_equal_size(*(output.features for output in outputs))
        for number, layer in enumerate(self.transfer_layers):
            maps[number] = layer(maps[number], training=True)
        return [
            self.weight
            * tf.add_n([self.distance(maps[number], maps[j]) for j in teachers])
            / len(teachers)
            for number, teachers in enumerate(self.teachers)
        ]


def from_flags(peers: Sequence[Peer]) -> FeatureAlignment:
    """Builds the method from the command line."""
    settings = mutual_settings_from_flags()
    adam = adversarial_settings_from_flags(settings["recipe"])["adversarial_recipe"]
    return FeatureAlignment(
        peers,
        distance=_DISTANCE.value,
        weight=_WEIGHT.value,
        optimizer=_OPTIMIZER.value,
        adam_recipe=adam,
        **settings,
    )
