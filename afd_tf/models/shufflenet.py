"""ShuffleNetV2 (Ma et al. 2018) for CIFAR, as in Tian et al. (2020)."""

import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.batch_normalization import BatchNormalization
from afd_tf.models.layers import ConvolutionBlock, depthwise_convolution
from afd_tf.models.peer import Peer
from afd_tf.models.stage import Composite, Stage

# Width in percent → the channels of each stage.
_WIDTHS = {50: (48, 96, 192), 100: (116, 232, 464), 150: (176, 352, 704)}
# Blocks of each stage, the first of which halves the size.
_BLOCKS = (4, 8, 4)


class ShuffleBlock(Composite):
    """Two halves of the channels, one through three convolutions, then shuffled.

    With stride 2, both halves are made of the whole input, and the other half has two
    convolutions of its own.

    Args:
      filters: channels of the output.
      strides: of the 3x3 convolutions, in both directions.
      **kwargs: of a Keras layer.
    """

    def __init__(self, filters: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        half = filters // 2
        self.residual = Stage(
            [
                ConvolutionBlock(half, kernel_size=1),
                depthwise_convolution(strides),
                BatchNormalization(),
                ConvolutionBlock(half, kernel_size=1),
            ]
        )
        self.shortcut = (
            Stage(
                [
                    depthwise_convolution(strides),
                    BatchNormalization(),
                    ConvolutionBlock(half, kernel_size=1),
                ]
            )
            if strides > 1
            else None
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, h / strides, w / strides, filters]."""
        if self.shortcut:
            first = self.shortcut(inputs, training=training)
            second = inputs
        else:
            first, second = tf.split(inputs, 2, axis=-1)
        second = self.residual(second, training=training)
        _, height, width, half = first.shape
        # Channels of both halves alternate, so that the next block mixes them.
        pairs = tf.stack([first, second], axis=-1)  # [B, h, w, half, 2]
        return tf.reshape(pairs, [-1, height, width, 2 * half])


class ShuffleNetV2(Peer):
    """ShuffleNetV2: three stages behind a 1x1 stem, then 1x1 to 1024 channels.

    Args:
      width: of the channels, in percent: 50, 100 or 150.
      **kwargs: see `Peer`.

    Raises:
      UserError: no such network has this width.
    """

    def __init__(self, width: int, **kwargs):
        if width not in _WIDTHS:
            names = [f"shufflenet_v2_{each}" for each in _WIDTHS]
            raise UserError(
                f"there is no ShuffleNetV2 with a width of {width} %: take one of "
                f"{', '.join(names)}."
            )
        body = {"stem": ConvolutionBlock(24, kernel_size=1)}
        for stage, (filters, blocks) in enumerate(
            zip(_WIDTHS[width], _BLOCKS, strict=True), start=1
        ):
            body[f"stage_{stage}"] = Stage(
                [
                    ShuffleBlock(filters, strides=1 if index else 2)
                    for index in range(blocks)
                ]
            )
        body["features"] = ConvolutionBlock(1024, kernel_size=1)
        super().__init__(downsampling=8, body=body, **kwargs)
