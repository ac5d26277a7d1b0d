"""Feature-map-level online adversarial knowledge distillation (Chung et al. 2020).

ICML 2020, PMLR 119, pp. 2006-2015, arXiv 2002.01775.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import flags

from afd_tf.base.errors import UserError
from afd_tf.distill import losses
from afd_tf.distill.feature_maps import pool_to_smallest
from afd_tf.distill.labels import Labels
from afd_tf.distill.logit_distillation import LogitDistillation
from afd_tf.distill.methods import dml
from afd_tf.distill.metrics import Values, discriminator_monitors
from afd_tf.distill.objective import Objective, Outputs, Pass
from afd_tf.distill.offline_distillation import Teacher, require_maps
from afd_tf.distill.recipes import Recipe, decay_mode_from_flags, drops_from
from afd_tf.distill.topology import frozen, teachers
from afd_tf.distill.update_order import (
    check_update_order,
    merge_losses,
    update_order_from_flags,
)
from afd_tf.models import Peer
from afd_tf.models.discriminator import SIZES, Discriminator, build_transfer_layers

_ADVERSARIAL_WEIGHT = flags.DEFINE_float(
    "afd_adversarial_weight",
    1.0,
    "Weight of the loss with which a peer fools its discriminator; 0 switches the "
    "adversarial part of afd off.",
    lower_bound=0,
)
_LEARNING_RATE = flags.DEFINE_float(
    "afd_learning_rate",
    2e-5,
    "Initial learning rate of both Adam optimizers of afd, the feature maps' and the "
    "discriminators'.",
    lower_bound=0,
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "afd_weight_decay",
    0.1,
    "L2 factor of both Adam optimizers of afd. The default beside pretrained peers is "
    "0, as 0.1 undoes their weights in a long run.",
    lower_bound=0,
)
_DROPS = flags.DEFINE_list(
    "afd_learning_rate_drops",
    ["0.25", "0.5"],
    "Fractions of the run after which --afd_learning_rate is multiplied by 0.1.",
)

_DISCRIMINATOR = flags.DEFINE_enum(
    "afd_discriminator",
    "small",
    list(SIZES),
    "Size of the discriminators of afd: one hidden convolution, or two with more "
    "channels.",
)
_NORMALIZATION = flags.DEFINE_enum(
    "afd_normalization",
    "separate",
    ["separate", "joint"],
    "Statistics with which the discriminators of afd normalize real and fake maps: "
    "separate for each, or joint of all.",
)

# Recalled, not confirmed, as the paper's.
ADAM_RECIPE = Recipe("adam", learning_rate=2e-5, decay=0.1, drops=(0.25, 0.5))
PRETRAINED_RECIPE = dataclasses.replace(ADAM_RECIPE, decay=0.0)


class ShownMap(NamedTuple):
    """A network's map M(F) as discriminators see it.

    Attributes:
      values: [n, h, w, c], of all images of the batch or of some.
      weight: of each image, so that the n weights add up to the size of the batch.
    """

    values: tf.Tensor
    weight: tf.Tensor | float = 1.0


class Scores(NamedTuple):
    """A discriminator's answers to the maps of one network, and what they count for.

    Attributes:
      values: float32 [n] in 0..1; 1 is "real", another network's map.
      weight: of each; the weights of all real maps, and those of all fake ones, add up
        to the size of the batch.
    """

    values: tf.Tensor
    weight: tf.Tensor | float


def discriminator_loss(fake: Scores, real: Sequence[Scores]) -> tf.Tensor:
    """L_D,k = mean over j of (1 - D_k(sg M_j(F_j)))^2 + D_k(sg M_k(F_k))^2.

    Args:
      fake: D_k(M_k(F_k)), of the own map.
      real: D_k(sg M_j(F_j)), of each teacher's map; their weights make the mean.

    Returns:
      float32 [m]: the weighted terms of all maps, one after the other; their sum
      counts.
    """
    return tf.concat(
        [
            fake.weight * losses.least_squares(fake.values, 0.0),
            *(each.weight * losses.least_squares(each.values, 1.0) for each in real),
        ],
        axis=0,
    )


def generator_loss(fake: Scores) -> tf.Tensor:
    """L_G,k = (1 - D_k(M_k(F_k)))^2, float32 [n], weighted."""
    return fake.weight * losses.least_squares(fake.values, 1.0)


class AdversarialFeatureDistillation(LogitDistillation):
    """Mutual learning of logits, and each peer's feature map posing as another's.

    For learner k with teachers j, feature map F and transfer layer M (the identity
    where all channels agree; sg: no gradient):

        L_logit,k = CE(y, z_k) + mean over j of T^2 KL(sg z_j || z_k)
        L_D,k = mean over j of (1 - D_k(sg M_j(F_j)))^2 + D_k(sg M_k(F_k))^2
        L_G,k = (1 - D_k(M_k(F_k)))^2

    L_logit,k moves the whole peer; L_D,k moves D_k; L_G,k moves G_k, which is the peer
    without its classifier, and M_k. Larger maps are first averaged down to the smallest
    height and width (`pool_to_smallest`): this project's rule, the paper has none.

    Args:
      peers: two or more; one is enough beside frozen teachers.
      topology: "cyclic" is the paper's for more than two peers.
      frozen_teachers: if there are any, peers learn from them and not from each
        other: their maps are real. A frozen teacher has no transfer layer, the
        peers' lead to its channels.
      adversarial_weight: of L_G; 0 leaves the logit loss alone.
      adversarial_recipe: of L_D and of L_G, an Adam for each. None is `ADAM_RECIPE`,
        without its decay if a peer is pretrained (results/pretrained_decay.json).
      discriminator: the size of each; see `Discriminator`.
      joint_normalization: whether a discriminator normalizes real and fake maps with
        the statistics of all of them, and not each with their own. The paper does not
        say; with their own, a difference in mean or scale is hidden from it.
      update_order: "simultaneous", one forward pass for all losses, or "sequential",
        one for the logits and then one for the maps.
      **kwargs: of `LogitDistillation`.

    Raises:
      UserError: feature maps too small for a discriminator, or frozen teachers with
        different channels or without maps; and see `LogitDistillation`,
        `afd_tf.distill.topology.teachers` and `check_update_order`.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        topology: str = "cyclic",
        frozen_teachers: Sequence[Teacher] = (),
        adversarial_weight: float = 1.0,
        adversarial_recipe: Recipe | None = None,
        discriminator: str = "small",
        joint_normalization: bool = False,
        update_order: str = "simultaneous",
        **kwargs,
    ):
        check_update_order(update_order)
        if frozen_teachers:
            who = frozen(len(peers), len(frozen_teachers))
        else:
            who = teachers(topology, len(peers))
        super().__init__(peers, teachers=who, frozen_teachers=frozen_teachers, **kwargs)
        self.adversarial_weight = adversarial_weight
        if adversarial_recipe is None:
            pretrained = any(peer.pretrained for peer in peers)
            adversarial_recipe = PRETRAINED_RECIPE if pretrained else ADAM_RECIPE
        self.adversarial_recipe = adversarial_recipe
        self.joint_normalization = joint_normalization
        self.update_order = update_order
        self.transfer_layers, self.discriminators = [], []
        if not adversarial_weight:
            return
        require_maps(frozen_teachers)
        channels = [peer.feature_shape[-1] for peer in peers]
        common = _channels_of_real_maps(frozen_teachers) or max(channels)
        self.transfer_layers = build_transfer_layers(peers, common)
        shapes = [each.feature_shape for each in (*peers, *frozen_teachers)]
        height, width = (min(sizes) for sizes in list(zip(*shapes, strict=True))[:2])
        shape = (height, width, common)
        self.discriminators = [
            Discriminator(shape, discriminator, name=f"discriminator_{number}")
            for number in range(len(peers))
        ]
        for network in self.discriminators:
            network(tf.zeros([1, *shape]))

    def make_objectives(self) -> Sequence[Objective]:
        """Returns L_logit of every learner, then every L_D, then every L_G."""
        recipe = self.adversarial_recipe
        of_discriminators, of_features = [], []
        for number, discriminator in enumerate(self.discriminators):
            peer = f"peer_{number}"
            variables = self.peers[number].feature_variables
            if self.transfer_layers:
                variables = variables + self.transfer_layers[number].trainable_variables
            of_discriminators.append(
                Objective(
                    peer, "discriminator", discriminator.trainable_variables, recipe
                )
            )
            of_features.append(Objective(peer, "feature", variables, recipe))
        return [*super().make_objectives(), *of_discriminators, *of_features]

    def passes(self) -> Sequence[Pass]:
        """Returns the forward pass of all losses, or one each for logits and maps."""
        if self.update_order == "simultaneous" or not self.discriminators:
            return super().passes()
        return [
            Pass(self.training_outputs, losses_of_pass)
            for losses_of_pass in (self.logit_losses, self.feature_losses)
        ]

    def compute_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns L_logit, L_D and L_G of every learner, and monitors."""
        return merge_losses(
            self.logit_losses(labels, outputs), self.feature_losses(labels, outputs)
        )

    def feature_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns L_D and L_G, and the accuracy of each discriminator.

        Args:
          labels: of the images.
          outputs: one for each peer, then one for each frozen teacher.
        """
        maps = self._transferred(outputs)
        shown = self.shown_maps(maps, tf.shape(maps[0])[0])
        values, monitors = {}, {}
        for number, discriminator in enumerate(self.discriminators):
            own = shown[number]
            others = [shown[teacher] for teacher in self.teachers[number]]
            # L_D moves D_k alone and L_G nothing of it: the scores of the own map,
            # without a stop-gradient, serve both.
            seen = [own.values, *(tf.stop_gradient(each.values) for each in others)]
            fake_values, *real_values = self._judge(discriminator, seen)
            fake = Scores(fake_values, own.weight)
            real = [
                Scores(values, other.weight / len(others))
                for values, other in zip(real_values, others, strict=True)
            ]
            peer = f"peer_{number}"
            values[f"{peer}/discriminator"] = discriminator_loss(fake, real)
            values[f"{peer}/feature"] = self.feature_loss(fake)
            monitors |= _discriminator_accuracy(peer, fake, real)
        return values, monitors

    def shown_maps(
        self, maps: Sequence[tf.Tensor], batch_size: tf.Tensor
    ) -> Sequence[ShownMap]:
        """Returns which images' maps discriminators see: here those of all images.

        Args:
          maps: M(F) of each network, [B, h, w, c].
          batch_size: B, int32, of this replica.
        """
        return [ShownMap(values) for values in maps]

    def _judge(
        self, discriminator: Discriminator, maps: Sequence[tf.Tensor]
    ) -> Sequence[tf.Tensor]:
        """Returns the scores of each network's maps."""
        if not self.joint_normalization:
            return [discriminator(values, training=True) for values in maps]
        scores = discriminator(tf.concat(maps, axis=0), training=True)
        return tf.split(scores, [tf.shape(values)[0] for values in maps])

    def feature_loss(self, fake: Scores) -> tf.Tensor:
        """Returns what moves the peer's feature map: L_G, float32 [n], weighted."""
        return self.adversarial_weight * generator_loss(fake)

    def _transferred(self, outputs: Outputs) -> list[tf.Tensor]:
        """Returns M(F) of each network; M is the identity of a frozen teacher."""
        maps = pool_to_smallest(*(output.features for output in outputs))
        for number, layer in enumerate(self.transfer_layers):
            maps[number] = layer(maps[number], training=True)
        return maps


def _discriminator_accuracy(peer: str, fake: Scores, real: Sequence[Scores]) -> Values:
    weights = [each.weight * tf.ones_like(each.values) for each in real]
    return discriminator_monitors(
        peer,
        tf.concat([each.values > 0.5 for each in real], axis=0),
        fake.values < 0.5,
        weights=(tf.concat(weights, axis=0), fake.weight),
    )


def _channels_of_real_maps(frozen_teachers: Sequence[Teacher]) -> int | None:
    channels = {teacher.feature_shape[-1] for teacher in frozen_teachers}
    if len(channels) > 1:
        raise UserError(
            "the teachers' feature maps differ in channels "
            f"({', '.join(map(str, sorted(channels)))}): give teachers with equally "
            "many, or only one."
        )
    return channels.pop() if channels else None


def adam_recipe_from_flags() -> Recipe:
    """Returns the recipe of the Adam optimizers from the command line.

    Raises:
      UserError: a learning-rate drop is no number in 0..1.
    """
    return dataclasses.replace(
        ADAM_RECIPE,
        learning_rate=_LEARNING_RATE.value,
        decay=_WEIGHT_DECAY.value,
        decay_mode=decay_mode_from_flags(),
        drops=drops_from(_DROPS),
    )


def adversarial_settings_from_flags() -> dict:
    """Returns the keyword arguments that this class alone has."""
    return {
        "adversarial_weight": _ADVERSARIAL_WEIGHT.value,
        "adversarial_recipe": adam_recipe_from_flags(),
        "discriminator": _DISCRIMINATOR.value,
        "joint_normalization": _NORMALIZATION.value == "joint",
        "update_order": update_order_from_flags(),
    }


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return {**dml.settings_from_flags(), **adversarial_settings_from_flags()}
