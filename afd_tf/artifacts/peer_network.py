"""A built peer as a network of a classifier."""

from collections.abc import Sequence

import tensorflow as tf

from afd_tf.artifacts.networks import ClassifierNetwork
from afd_tf.models import Peer


def peer_network(peer: Peer, image_shape: Sequence[int]) -> ClassifierNetwork:
    """Returns a built peer as a network of a classifier.

    Args:
      peer: a built peer.
      image_shape: (h, w, c) of the images.
    """

    # One trace for every batch size.
    @tf.function(
        input_signature=[tf.TensorSpec([None, *image_shape], tf.uint8)],
        autograph=False,
    )
    def logits(images):
        return peer(images, training=False).logits

    return ClassifierNetwork(peer.name, lambda images: logits(images).numpy())
