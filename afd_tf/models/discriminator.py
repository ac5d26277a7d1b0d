"""The two networks that AFD puts beside the peers.

The paper names their purpose and their shapes, not their layers: the layers here are
this project's choice.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from afd_tf.errors import UserError
from afd_tf.models.layers import (
    BatchNormalization,
    ConvolutionBlock,
    convolution,
    he_normal,
)
from afd_tf.models.peer import Peer


class TransferLayer(ConvolutionBlock):
    """T_k of the paper: brings a feature map to the width that all peers share.

    A 1x1 convolution, batch normalization and ReLU (a map after ReLU stays
    non-negative). Used for every peer as soon as one's channels differ.

    Args:
      filters: the common number of channels.
      **kwargs: of a Keras layer.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(filters, kernel_size=1, **kwargs)


def build_transfer_layers(peers: Sequence[Peer], channels: int) -> list[TransferLayer]:
    """Returns a transfer layer for each peer; none if all have these channels."""
    if all(peer.feature_shape[-1] == channels for peer in peers):
        return []
    layers = []
    for number, peer in enumerate(peers):
        layers.append(TransferLayer(channels, name=f"transfer_{number}"))
        layers[-1](tf.zeros([1, *peer.feature_shape]))
    return layers


class Discriminator(keras.Model):
    """D_k of the paper: one number in 0..1 per feature map, 1 = "another's", 0 = "own".

    Convolution 3x3 stride 2, batch normalization, LeakyReLU 0.2, a convolution over
    all that is left to one channel, sigmoid. Real and fake maps go through in calls
    of their own, each normalized with its own batch statistics.

    Args:
      map_shape: (h, w, c) of the maps to come.
      **kwargs: of a Keras model.

    Raises:
      UserError: the map is smaller than 2x2.
    """

    def __init__(self, map_shape: Sequence[int], **kwargs):
        super().__init__(**kwargs)
        height, width, channels = map_shape
        if min(height, width) < 2:
            raise UserError(
                f"feature maps of {height}x{width} are too small for a discriminator, "
                "which needs 2x2: enlarge the pictures with --image_size, or take "
                "--method=dml, which looks at the logits only."
            )
        self.convolution = convolution(channels, 3, strides=2)
        self.normalization = BatchNormalization()
        self.score = keras.layers.Conv2D(
            1,
            ((height + 1) // 2, (width + 1) // 2),
            padding="valid",
            kernel_initializer=he_normal(),
        )

    def call(self, maps: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns float32 [B] in 0..1 for maps [B, h, w, c]."""
        hidden = self.normalization(self.convolution(maps), training=training)
        scores = self.score(tf.nn.leaky_relu(hidden, alpha=0.2))
        return tf.sigmoid(tf.reshape(tf.cast(scores, tf.float32), [-1]))
