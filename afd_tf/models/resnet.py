"""ResNet for CIFAR (He et al. 2016, section 4.2), post-activation."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from afd_tf.errors import UserError
from afd_tf.models.layers import ConvolutionBlock
from afd_tf.models.peer import Peer


class ResidualBlock(keras.layers.Layer):
    """Two 3x3 convolutions and a shortcut, then ReLU.

    The shortcut is the identity, or a 1x1 convolution with batch normalization
    (option B) where the shape changes.
    """

    def __init__(self, filters: int, strides: int, project: bool, **kwargs):
        super().__init__(**kwargs)
        self.first = ConvolutionBlock(filters, strides=strides)
        self.second = ConvolutionBlock(filters, activation=False)
        self.shortcut = (
            ConvolutionBlock(filters, kernel_size=1, strides=strides, activation=False)
            if project
            else None
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, h / strides, w / strides, filters]."""
        residual = self.second(self.first(inputs, training=training), training=training)
        shortcut = self.shortcut(inputs, training=training) if self.shortcut else inputs
        return tf.nn.relu(residual + shortcut)


class ResNet(Peer):
    """ResNet-d, d = 6 n + 2: three stages of n blocks with 16, 32 and 64 channels.

    Args:
      depth: d; 20, 32, 44, 56 and 110 are the paper's.
      **kwargs: see `Peer`.

    Raises:
      UserError: the depth does not fit the formula.
    """

    def __init__(self, depth: int, **kwargs):
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            nearest = 6 * max(1, round((depth - 2) / 6)) + 2
            raise UserError(
                f"no CIFAR ResNet has depth {depth}: it is 6 n + 2. "
                f"Did you mean 'resnet{nearest}'?"
            )
        super().__init__(downsampling=4, **kwargs)
        self.stem = ConvolutionBlock(16)
        self.stages = [
            [
                ResidualBlock(
                    filters,
                    strides=2 if stage and not index else 1,
                    project=bool(stage) and not index,
                )
                for index in range(blocks)
            ]
            for stage, filters in enumerate((16, 32, 64))
        ]

    def extract(self, inputs: tf.Tensor, training: bool) -> Mapping[str, tf.Tensor]:
        """Returns `stem` and `stage_1` to `stage_3`; see `Peer.extract`."""
        maps = {"stem": self.stem(inputs, training=training)}
        outputs = maps["stem"]
        for number, stage in enumerate(self.stages, start=1):
            for block in stage:
                outputs = block(outputs, training=training)
            maps[f"stage_{number}"] = outputs
        return maps
