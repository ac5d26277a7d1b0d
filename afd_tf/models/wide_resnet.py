"""Wide ResNet for CIFAR (Zagoruyko and Komodakis 2016), pre-activation, no dropout."""

import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.batch_normalization import BatchNormalization
from afd_tf.models.layers import NormalizedActivation, convolution
from afd_tf.models.peer import Peer
from afd_tf.models.stage import Composite, Stage


class PreActivationBlock(Composite):
    """(BN, ReLU, 3x3 convolution) twice, and a shortcut.

    The shortcut is the identity, or, where the channels change, a 1x1 convolution of
    the activated input.

    Args:
      filters: channels of the output.
      strides: of the first convolution, in both directions.
      project: whether the shortcut is a convolution.
      **kwargs: of a Keras layer.
    """

    def __init__(self, filters: int, strides: int, project: bool, **kwargs):
        super().__init__(**kwargs)
        self.first_normalization = BatchNormalization()
        self.first = convolution(filters, 3, strides)
        self.second_normalization = BatchNormalization()
        self.second = convolution(filters, 3)
        self.shortcut = convolution(filters, 1, strides) if project else None

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, h / strides, w / strides, filters]."""
        active = tf.nn.relu(self.first_normalization(inputs, training=training))
        residual = self.first(active)
        residual = tf.nn.relu(self.second_normalization(residual, training=training))
        shortcut = self.shortcut(active) if self.shortcut else inputs
        return self.second(residual) + shortcut


class WideResNet(Peer):
    """WRN-d-k, d = 6 n + 4: three stages of n blocks with 16 k, 32 k, 64 k channels.

    `features` is the map behind the last batch normalization and ReLU.

    Args:
      depth: d; 16, 28 and 40 are common.
      width: k, the widening factor.
      **kwargs: see `Peer`.

    Raises:
      UserError: the depth or the width does not fit the formula.
    """

    def __init__(self, depth: int, width: int, **kwargs):
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1 or width < 1:
            nearest = 6 * max(1, round((depth - 4) / 6)) + 4
            raise UserError(
                f"no Wide ResNet has depth {depth} and width {width}: the depth is "
                f"6 n + 4, the width at least 1. "
                f"Did you mean 'wrn_{nearest}_{max(1, width)}'?"
            )
        body = {"stem": convolution(16, 3)}
        channels = 16
        for stage, filters in enumerate((16 * width, 32 * width, 64 * width), start=1):
            layers = []
            for index in range(blocks):
                strides = 2 if stage > 1 and not index else 1
                layers.append(PreActivationBlock(filters, strides, channels != filters))
                channels = filters
            body[f"stage_{stage}"] = Stage(layers)
        body["features"] = NormalizedActivation()
        super().__init__(downsampling=4, body=body, **kwargs)
