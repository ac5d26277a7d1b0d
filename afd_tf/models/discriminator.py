"""The two networks of AFD beside the peers: discriminator and transfer layer.

The paper gives their purpose and their shapes, not their layers: the layers here are
this project's choice.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.models.layers import ConvolutionBlock, he_normal
from afd_tf.models.peer import Peer


class TransferLayer(ConvolutionBlock):
    """T_k of the paper: brings a feature map to the channels that all peers share.

    A 1x1 convolution, batch normalization and ReLU (a map after ReLU stays
    non-negative). Every peer has one as soon as the channels of any two differ.

    Args:
      filters: the common number of channels.
      **kwargs: of a Keras layer.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(filters, kernel_size=1, **kwargs)


def build_transfer_layers(peers: Sequence[Peer], channels: int) -> list[TransferLayer]:
    """Builds a transfer layer for each peer, unless all maps have these channels.

    Args:
      peers: built peers.
      channels: the common number of channels.

    Returns:
      one built layer per peer, or an empty list.
    """
    if all(peer.feature_shape[-1] == channels for peer in peers):
        return []
    layers = []
    for number, peer in enumerate(peers):
        layers.append(TransferLayer(channels, name=f"transfer_{number}"))
        layers[-1](tf.zeros([1, *peer.feature_shape]))
    return layers


# Channels of the hidden maps, relative to those of the feature map.
SIZES = {"small": (1,), "large": (2, 4)}


class Discriminator(keras.Model):
    """D_k of the paper: one number in 0..1 per feature map, 1 = "another's", 0 = "own".

    A 3x3 convolution with stride 2, batch normalization and LeakyReLU 0.2, once or
    twice, then a convolution as large as the remaining map to one channel, sigmoid.

    Args:
      map_shape: height, width and channels of the feature maps.
      size: "small", one hidden map with the channels of the feature map (38,000
        parameters for 8x8x64), or "large", two with twice and four times as many
        (370,000).
      **kwargs: of a Keras model.

    Raises:
      UserError: the map is smaller than 2x2, or the size is unknown.
    """

    def __init__(self, map_shape: Sequence[int], size: str = "small", **kwargs):
        super().__init__(**kwargs)
        height, width, channels = map_shape
        if min(height, width) < 2:
            raise UserError(
                f"feature maps of {height}x{width} are too small for a discriminator, "
                "which needs 2x2: enlarge the images with --image_size, or take "
                "--method=dml, which compares logits only."
            )
        if size not in SIZES:
            raise unknown_name("discriminator", size, SIZES)
        self.hidden = [
            ConvolutionBlock(factor * channels, strides=2, activation=False)
            for factor in SIZES[size]
        ]
        remaining = 2 ** len(self.hidden)
        self.score = keras.layers.Conv2D(
            1,
            (-(-height // remaining), -(-width // remaining)),
            padding="valid",
            kernel_initializer=he_normal(),
        )

    def call(self, maps: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns scores, float32 [B] in 0..1, of feature maps [B, h, w, c].

        In training the maps of a call are normalized with their own batch statistics.
        """
        for block in self.hidden:
            maps = tf.nn.leaky_relu(block(maps, training=training), alpha=0.2)
        scores = self.score(maps)
        return tf.sigmoid(tf.reshape(tf.cast(scores, tf.float32), [-1]))
