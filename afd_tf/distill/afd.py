"""Feature-map-level online adversarial knowledge distillation (Chung et al. 2020).

ICML 2020, PMLR 119, pp. 2006-2015, arXiv 2002.01775.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf
from absl import flags

from afd_tf.distill import losses
from afd_tf.distill.dml import mutual_settings_from_flags
from afd_tf.distill.logit import LogitDistillation
from afd_tf.distill.method import Outputs, Plan, Values, discriminator_monitors
from afd_tf.distill.offline import Teacher, of_equal_size, with_maps
from afd_tf.distill.optimizers import Recipe, drops_from
from afd_tf.distill.replicas import sum_over_replicas
from afd_tf.distill.topology import frozen, teachers
from afd_tf.errors import UserError
from afd_tf.models import Peer
from afd_tf.models.discriminator import Discriminator, build_transfer_layers

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

_UNPAIRED = flags.DEFINE_bool(
    "afd_unpaired",
    False,
    "Show discriminators the networks' maps of different pictures, each network's own "
    "part of the batch.",
)
_DECAY_ONLY = flags.DEFINE_bool(
    "afd_decay_only",
    False,
    "A control: the feature maps' Adam works without the adversarial gradient, so that "
    "only its weight decay is left.",
)

# Recalled, not confirmed, as the paper's.
ADAM_RECIPE = Recipe("adam", learning_rate=2e-5, decay=0.1, drops=(0.25, 0.5))


class AdversarialFeatureDistillation(LogitDistillation):
    """Mutual learning of logits, and each peer's feature map posing as another's.

    For learner k with teachers j, feature map F and transfer layer M (the identity
    where all channels agree):

        L_D,k = mean over j of (1 - D_k(M_j(F_j)))^2 + D_k(M_k(F_k))^2   moves D_k
        L_G,k = (1 - D_k(M_k(F_k)))^2            moves G_k and M_k, not the classifier

    Maps that are larger than the smallest in height or width are first averaged down
    to it (`adaptive_average_pooling`): this project's rule, the paper has none.

    The losses compare distributions, not pictures. `unpaired` makes use of that:
    each network's maps are shown for its own share of the batch only (picture i of
    the global batch belongs to network i modulo their number), so that no picture is
    seen by two networks on the adversarial side. With `logit_weight=0` nothing then
    asks for another's view of the same picture.

    Args:
      peers: two or more; one is enough beside frozen teachers.
      topology: "cyclic" is the paper's for more than two peers.
      frozen_teachers: if there are any, peers learn from them and not from each
        other: their maps are real. A frozen teacher has no transfer layer, the
        peers' lead to its channels.
      adversarial_weight: of L_G; 0 leaves the logit loss alone.
      adversarial_recipe: of L_D and of L_G, an Adam for each.
      unpaired: whether networks are shown with different pictures.
      decay_only: a control without the gradient of L_G.
      **kwargs: of `LogitDistillation`.

    Raises:
      UserError: feature maps too small for a discriminator, or frozen teachers with
        different channels or without maps; and see `LogitDistillation` and
        `afd_tf.distill.topology.teachers`.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        topology: str = "cyclic",
        frozen_teachers: Sequence[Teacher] = (),
        adversarial_weight: float = 1.0,
        adversarial_recipe: Recipe = ADAM_RECIPE,
        unpaired: bool = False,
        decay_only: bool = False,
        **kwargs,
    ):
        if frozen_teachers:
            who = frozen(len(peers), len(frozen_teachers))
        else:
            who = teachers(topology, len(peers))
        super().__init__(peers, teachers=who, frozen_teachers=frozen_teachers, **kwargs)
        self.adversarial_weight = adversarial_weight
        self.adversarial_recipe = adversarial_recipe
        # Which pictures are shown depends on their places in all replicas' batch.
        self.unpaired = self.losses_exchange = unpaired
        self.decay_only = decay_only
        self.transfer_layers, self.discriminators = [], []
        if not adversarial_weight:
            return
        with_maps(frozen_teachers)
        channels = [peer.feature_shape[-1] for peer in peers]
        common = _channels_of_real_maps(frozen_teachers) or max(channels)
        self.transfer_layers = build_transfer_layers(peers, common)
        shapes = [each.feature_shape for each in (*peers, *frozen_teachers)]
        height, width = (min(sizes) for sizes in list(zip(*shapes, strict=True))[:2])
        self.discriminators = [
            Discriminator((height, width, common), name=f"discriminator_{number}")
            for number in range(len(peers))
        ]
        for discriminator in self.discriminators:
            discriminator(tf.zeros([1, height, width, common]))

    def feature_objectives(self) -> Sequence[Plan]:
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
        self, labels: tf.Tensor, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns L_D and L_G, and how often each discriminator is right."""
        if not self.discriminators:
            return {}, {}
        maps = of_equal_size(*(output.features for output in outputs))
        for number, layer in enumerate(self.transfer_layers):
            maps[number] = layer(maps[number], training=True)
        # What a picture that is shown counts for: 1, or all networks' share.
        scales = [1.0] * len(maps)
        if self.unpaired:
            rows, scales = deal_out(tf.shape(labels)[0], len(maps))
            maps = [tf.gather(*pair) for pair in zip(maps, rows, strict=True)]
        values, monitors = {}, {}
        for number, discriminator in enumerate(self.discriminators):
            # One call serves both losses: L_D moves D_k alone, L_G alone goes back into
            # the own map.
            fake = discriminator(maps[number], training=True)
            own = scales[number]
            parts, right, others = [own * losses.least_squares(fake, 0.0)], [], []
            for teacher in self.teachers[number]:
                real = discriminator(tf.stop_gradient(maps[teacher]), training=True)
                share = scales[teacher] / len(self.teachers[number])
                parts.append(share * losses.least_squares(real, 1.0))
                right.append(real > 0.5)
                others.append(share * tf.ones_like(real))
            peer = f"peer_{number}"
            values[f"{peer}/discriminator"] = tf.concat(parts, axis=0)
            weight = 0.0 if self.decay_only else self.adversarial_weight
            values[f"{peer}/feature"] = weight * own * losses.least_squares(fake, 1.0)
            monitors |= discriminator_monitors(
                peer,
                tf.concat(right, axis=0),
                fake < 0.5,
                scales=(tf.concat(others, axis=0), own),
            )
        return values, monitors


def deal_out(size: tf.Tensor, networks: int) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Deals the pictures of a batch out to networks, by their place in all replicas'.

    Picture i of the global batch goes to network i modulo `networks`. A batch with
    fewer pictures than networks goes to all of them.

    Args:
      size: int32, the pictures of this replica.
      networks: how many there are.

    Returns:
      for each network the pictures of this replica that are its own, int64 [n], and
      by how much more each counts than in the whole batch, float32.
    """
    first, total = 0, size
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        replica = context.replica_id_in_sync_group
        own = size * tf.one_hot(replica, context.num_replicas_in_sync, dtype=tf.int32)
        sizes = sum_over_replicas(own)
        first = tf.cumsum(sizes, exclusive=True)[replica]
        total = tf.reduce_sum(sizes)
    places = first + tf.range(size)
    too_few = total < networks
    rows, scales = [], []
    for network in range(networks):
        mine = too_few | (places % networks == network)
        rows.append(tf.where(mine)[:, 0])
        count = (total - 1 - network) // networks + 1
        scale = tf.cast(total, tf.float32) / tf.cast(tf.maximum(count, 1), tf.float32)
        scales.append(tf.where(too_few, 1.0, scale))
    return rows, scales


def _channels_of_real_maps(frozen_teachers: Sequence[Teacher]) -> int | None:
    channels = {teacher.feature_shape[-1] for teacher in frozen_teachers}
    if len(channels) > 1:
        raise UserError(
            "the teachers' feature maps differ in channels "
            f"({', '.join(map(str, sorted(channels)))}): give teachers with equally "
            "many, or only one."
        )
    return channels.pop() if channels else None


def adversarial_settings_from_flags(base: Recipe) -> dict:
    """Returns the keyword arguments that only this class has.

    Args:
      base: the recipe of the logit loss, whose decay mode the Adams share.
    """
    return {
        "adversarial_weight": _ADVERSARIAL_WEIGHT.value,
        "adversarial_recipe": dataclasses.replace(
            ADAM_RECIPE,
            learning_rate=_LEARNING_RATE.value,
            decay=_WEIGHT_DECAY.value,
            decay_mode=base.decay_mode,
            drops=drops_from(_DROPS),
        ),
        "unpaired": _UNPAIRED.value,
        "decay_only": _DECAY_ONLY.value,
    }


def from_flags(peers: Sequence[Peer]) -> AdversarialFeatureDistillation:
    """Builds the method from the command line."""
    settings = mutual_settings_from_flags()
    return AdversarialFeatureDistillation(
        peers, **adversarial_settings_from_flags(settings["recipe"]), **settings
    )
