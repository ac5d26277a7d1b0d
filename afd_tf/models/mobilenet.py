"""MobileNetV2 (Sandler et al. 2018) for CIFAR, as in Tian et al. (2020)."""

import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.layers import (
    ConvolutionBlock,
    NormalizedActivation,
    depthwise_convolution,
)
from afd_tf.models.peer import Peer
from afd_tf.models.stage import Composite, Stage

# The groups of blocks of each stage: expansion, channels at width 100, number of
# blocks, stride of the first. A stage ends before the size changes.
_STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(Composite):
    """1x1 to more channels, 3x3 in each of them, 1x1 back without ReLU.

    The input is added where the shape stays.

    Args:
      filters: channels of the output.
      expanded: channels in between.
      strides: of the 3x3 convolution, in both directions.
      shortcut: whether the input is added.
      **kwargs: of a Keras layer.
    """

    def __init__(
        self, filters: int, expanded: int, strides: int, shortcut: bool, **kwargs
    ):
        super().__init__(**kwargs)
        self.shortcut = shortcut
        self.residual = Stage(
            [
                ConvolutionBlock(expanded, kernel_size=1),
                depthwise_convolution(strides),
                NormalizedActivation(),
                ConvolutionBlock(filters, kernel_size=1, activation=False),
            ]
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, h / strides, w / strides, filters]."""
        residual = self.residual(inputs, training=training)
        return residual + inputs if self.shortcut else residual


class MobileNetV2(Peer):
    """MobileNetV2: four stages of inverted residuals, then 1x1 to 1280 channels.

    It differs from the paper as the network of Tian et al. does: ReLU instead of
    ReLU6, an expansion even by a factor of 1, stride 1 in the second group of blocks,
    and channels that are not rounded to multiples of 8.

    Args:
      width: of the channels, in percent; Tian et al. take 50.
      **kwargs: see `Peer`.

    Raises:
      UserError: a layer would have no channel.
    """

    def __init__(self, width: int, **kwargs):
        if 16 * width < 100:
            raise UserError(
                f"no MobileNetV2 has a width of {width} %: its narrowest layer has 16 "
                "channels at 100 %, so take at least 7, e.g. mobilenet_v2_50."
            )
        channels = 32 * width // 100
        body = {"stem": ConvolutionBlock(channels, strides=2)}
        for stage, groups in enumerate(_STAGES, start=1):
            layers = []
            for expansion, full, blocks, first_strides in groups:
                filters = full * width // 100
                for index in range(blocks):
                    strides = 1 if index else first_strides
                    layers.append(
                        InvertedResidual(
                            filters,
                            expansion * channels,
                            strides,
                            shortcut=strides == 1 and channels == filters,
                        )
                    )
                    channels = filters
            body[f"stage_{stage}"] = Stage(layers)
        body["features"] = ConvolutionBlock(1280 * max(width, 100) // 100, 1)
        super().__init__(downsampling=16, body=body, **kwargs)
