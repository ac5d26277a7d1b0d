"""Feature-map-level online adversarial knowledge distillation (Chung et al. 2020).

ICML 2020, PMLR 119, pp. 2006-2015, arXiv 2002.01775.
"""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.distill import losses
from afd_tf.distill.dml import MutualLearning, mutual_settings_from_flags
from afd_tf.distill.method import Values
from afd_tf.distill.optimizers import Recipe, drops_from
from afd_tf.errors import UserError
from afd_tf.models import Peer, PeerOutput
from afd_tf.models.discriminator import Discriminator, TransferLayer

_ADVERSARIAL_WEIGHT = flags.DEFINE_float(
    "afd_adversarial_weight",
    1.0,
    "Of the loss with which a peer fools its discriminator; 0 switches it off.",
    lower_bound=0,
)
_LEARNING_RATE = flags.DEFINE_float(
    "afd_learning_rate",
    2e-5,
    "First learning rate of both Adams, for feature maps and for discriminators.",
    lower_bound=0,
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "afd_weight_decay", 0.1, "L2 factor of both Adams.", lower_bound=0
)
_DROPS = flags.DEFINE_list(
    "afd_learning_rate_drops",
    ["0.25", "0.5"],
    "Parts of the run after which that learning rate is multiplied by 0.1.",
)

# Recalled, not confirmed, as the paper's.
ADAM_RECIPE = Recipe("adam", learning_rate=2e-5, decay=0.1, drops=(0.25, 0.5))


class AdversarialFeatureDistillation(MutualLearning):
    """Mutual learning of logits, and each peer's feature map posing as another's.

    For learner k with teachers j, feature map F and transfer layer M (the identity
    where all peers' channels agree):

        L_D,k = mean over j of (1 - D_k(M_j(F_j)))^2 + D_k(M_k(F_k))^2   moves D_k
        L_G,k = (1 - D_k(M_k(F_k)))^2            moves G_k and M_k, not the classifier

    Args:
      peers: two or more, with feature maps of one height and width.
      topology: "cyclic" is the paper's for more than two.
      adversarial_weight: of L_G; 0 leaves mutual learning alone.
      adversarial_recipe: of L_D and of L_G, an Adam for each.
      **kwargs: of `MutualLearning`.

    Raises:
      UserError: feature maps of different or too small height or width; and see
        `MutualLearning`.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        topology: str = "cyclic",
        adversarial_weight: float = 1.0,
        adversarial_recipe: Recipe = ADAM_RECIPE,
        **kwargs,
    ):
        super().__init__(peers, topology=topology, **kwargs)
        self.adversarial_weight = adversarial_weight
        self.adversarial_recipe = adversarial_recipe
        self.transfer_layers: list[TransferLayer] = []
        self.discriminators: list[Discriminator] = []
        if not adversarial_weight:
            return
        height, width = _common_size(peers)
        channels = [peer.feature_shape[-1] for peer in peers]
        common = max(channels)
        if min(channels) < common:
            self.transfer_layers = [
                TransferLayer(common, name=f"transfer_{number}")
                for number in range(len(peers))
            ]
            for layer, peer in zip(self.transfer_layers, peers, strict=True):
                layer(tf.zeros([1, *peer.feature_shape]))
        self.discriminators = [
            Discriminator((height, width, common), name=f"discriminator_{number}")
            for number in range(len(peers))
        ]
        for discriminator in self.discriminators:
            discriminator(tf.zeros([1, height, width, common]))

    def feature_objectives(
        self,
    ) -> Sequence[tuple[str, Sequence[keras.Variable], Recipe]]:
        """Returns L_D of every learner, then L_G of every learner."""
        moved_by_d, moved_by_g = [], []
        for number, discriminator in enumerate(self.discriminators):
            moved_by_d.append(
                (
                    f"peer_{number}/discriminator",
                    discriminator.trainable_variables,
                    self.adversarial_recipe,
                )
            )
            variables = self.peers[number].feature_variables
            if self.transfer_layers:
                variables = variables + self.transfer_layers[number].trainable_variables
            moved_by_g.append(
                (f"peer_{number}/feature", variables, self.adversarial_recipe)
            )
        return (*moved_by_d, *moved_by_g)

    def feature_losses(
        self, labels: tf.Tensor, outputs: Sequence[PeerOutput]
    ) -> tuple[Values, Values]:
        """Returns L_D and L_G, and how often each discriminator is right."""
        if not self.discriminators:
            return {}, {}
        maps = [output.features for output in outputs]
        if self.transfer_layers:
            maps = [
                layer(features, training=True)
                for layer, features in zip(self.transfer_layers, maps, strict=True)
            ]
        values, monitors = {}, {}
        for number, discriminator in enumerate(self.discriminators):
            # One call serves both losses: L_D moves D_k alone, so the way back into
            # the own map, which only L_G takes, need not be stopped.
            fake = discriminator(maps[number], training=True)
            reals = [
                discriminator(tf.stop_gradient(maps[teacher]), training=True)
                for teacher in self.teachers[number]
            ]
            peer = f"peer_{number}"
            values[f"{peer}/discriminator"] = _mean(
                [losses.discriminator_loss(real, fake) for real in reals]
            )
            values[f"{peer}/feature"] = self.adversarial_weight * losses.fooling_loss(
                fake
            )
            on_real = _mean([tf.cast(real > 0.5, tf.float32) for real in reals])
            on_fake = tf.cast(fake < 0.5, tf.float32)
            monitors[f"{peer}/discriminator_accuracy_real"] = on_real
            monitors[f"{peer}/discriminator_accuracy_fake"] = on_fake
            monitors[f"{peer}/discriminator_accuracy"] = (on_real + on_fake) / 2.0
        return values, monitors


def _mean(values: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.add_n(values) / len(values)


def _common_size(peers: Sequence[Peer]) -> tuple[int, int]:
    sizes = {peer.feature_shape[:2] for peer in peers}
    if len(sizes) > 1:
        shown = ", ".join(
            f"{peer.name} {peer.feature_shape[0]}x{peer.feature_shape[1]}"
            for peer in peers
        )
        raise UserError(
            f"the peers' feature maps differ in height or width ({shown}): take peers "
            "that divide the picture equally, or --method=dml."
        )
    return sizes.pop()


def from_flags(peers: Sequence[Peer]) -> AdversarialFeatureDistillation:
    """Builds the method from the command line."""
    settings = mutual_settings_from_flags("cyclic")
    recipe = dataclasses.replace(
        ADAM_RECIPE,
        learning_rate=_LEARNING_RATE.value,
        decay=_WEIGHT_DECAY.value,
        decay_mode=settings["recipe"].decay_mode,
        drops=drops_from(_DROPS),
    )
    return AdversarialFeatureDistillation(
        peers,
        adversarial_weight=_ADVERSARIAL_WEIGHT.value,
        adversarial_recipe=recipe,
        **settings,
    )
