"""AFD whose discriminators never see two networks' maps of one image."""

from collections.abc import Sequence

import tensorflow as tf
from absl import flags

from afd_tf.distill.collectives import sum_over_replicas
from afd_tf.distill.methods.afd import AdversarialFeatureDistillation, ShownMap

_UNPAIRED = flags.DEFINE_bool(
    "afd_unpaired",
    False,
    "Show discriminators the networks' maps of different images: each network's own "
    "share of the batch.",
)


class UnpairedFeatureDistillation(AdversarialFeatureDistillation):
    """AFD of which each network shows the maps of its own share of the batch only.

    L_D and L_G compare distributions, not images: image i of the global batch is shown
    by network i modulo their number alone. With `logit_weight=0`, nothing then needs
    the outputs of two networks for one image.

    Args and errors: see `AdversarialFeatureDistillation`.
    """

    # The owner of an image depends on its place in the batch of all replicas.
    losses_exchange = True

    def shown_maps(
        self, maps: Sequence[tf.Tensor], batch_size: tf.Tensor
    ) -> Sequence[ShownMap]:
        """Returns the maps of each network's own images, which count for all."""
        rows, weights = assign_examples_to_networks(batch_size, len(maps))
        return [
            ShownMap(tf.gather(values, own), weight)
            for values, own, weight in zip(maps, rows, weights, strict=True)
        ]


def assign_examples_to_networks(
    size: tf.Tensor, networks: int
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Assigns the images of a batch to networks, by their places in the global batch.

    Image i of the global batch belongs to network i modulo `networks`. A batch with
    fewer images than networks belongs to all of them.

    Args:
      size: int32, number of images of this replica.
      networks: how many there are.

    Returns:
      for each network the images of this replica that are its own, int64 [n], and
      their weight beside one in the whole batch, float32.
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
    rows, weights = [], []
    for network in range(networks):
        mine = too_few | (places % networks == network)
        rows.append(tf.where(mine)[:, 0])
        count = (total - 1 - network) // networks + 1
        weight = tf.cast(total, tf.float32) / tf.cast(tf.maximum(count, 1), tf.float32)
        weights.append(tf.where(too_few, 1.0, weight))
    return rows, weights


def chosen_from_flags() -> bool:
    """Returns whether the command line asks for this variant of AFD."""
    return _UNPAIRED.value
