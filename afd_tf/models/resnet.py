"""ResNet for CIFAR (He et al. 2016, section 4.2), post-activation."""

import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.layers import ConvolutionBlock
from afd_tf.models.peer import Peer
from afd_tf.models.stage import Composite, Stage


class ResidualBlock(Composite):
    """Two 3x3 convolutions and a shortcut, then ReLU.

    The shortcut is the identity, or a 1x1 convolution with batch normalization
    (option B) where the shape changes.

    Args:
      filters: channels of the output.
      strides: of the first convolution, in both directions.
      project: whether the shortcut is a convolution.
      **kwargs: of a Keras layer.
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
      depth: d; the paper has 20, 32, 44, 56 and 110.
      width: k, as in ResNet-8x4 of Tian et al. (2020): stages of 16 k, 32 k and 64 k
        channels behind a stem of 32 (of 16 where k is 1). None is 1.
      **kwargs: see `Peer`.

    Raises:
      UserError: the depth or the width does not fit the formula.
    """

    def __init__(self, depth: int, width: int | None = None, **kwargs):
        width = 1 if width is None else width
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1 or width < 1:
            nearest = f"resnet{6 * max(1, round((depth - 2) / 6)) + 2}"
            raise UserError(
                f"no CIFAR ResNet has depth {depth} and width {width}: the depth is "
                f"6 n + 2, the width at least 1. "
                f"Did you mean '{nearest}{f'x{width}' if width > 1 else ''}'?"
            )
        channels = 32 if width > 1 else 16
        body = {"stem": ConvolutionBlock(channels)}
        for stage, filters in enumerate((16 * width, 32 * width, 64 * width), start=1):
            layers = []
            for index in range(blocks):
                strides = 2 if stage > 1 and not index else 1
                layers.append(ResidualBlock(filters, strides, channels != filters))
                channels = filters
            body[f"stage_{stage}"] = Stage(layers)
        super().__init__(downsampling=4, body=body, **kwargs)
