"""ResNet for ImageNet (He et al. 2016, section 4.1), post-activation."""

import keras
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.layers import ConvolutionBlock
from afd_tf.models.peer import Peer
from afd_tf.models.resnet import ResidualBlock
from afd_tf.models.stage import Composite, Stage


class Bottleneck(Composite):
    """1x1, 3x3 and 1x1 convolution and a shortcut, then ReLU.

    The 3x3 convolution has the stride, as in torchvision; in the paper it is the
    first one.

    Args:
      filters: channels of the output.
      strides: of the 3x3 convolution, in both directions.
      project: whether the shortcut is a 1x1 convolution instead of the identity.
      **kwargs: of a Keras layer.
    """

    def __init__(self, filters: int, strides: int, project: bool, **kwargs):
        super().__init__(**kwargs)
        self.residual = Stage(
            [
                ConvolutionBlock(filters // 4, kernel_size=1),
                ConvolutionBlock(filters // 4, strides=strides),
                ConvolutionBlock(filters, kernel_size=1, activation=False),
            ]
        )
        self.shortcut = (
            ConvolutionBlock(filters, kernel_size=1, strides=strides, activation=False)
            if project
            else None
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, h / strides, w / strides, filters]."""
        residual = self.residual(inputs, training=training)
        shortcut = self.shortcut(inputs, training=training) if self.shortcut else inputs
        return tf.nn.relu(residual + shortcut)


# Depth → the block, its channels in the first stage, the blocks of each stage.
_DEPTHS = {
    18: (ResidualBlock, 64, (2, 2, 2, 2)),
    34: (ResidualBlock, 64, (3, 4, 6, 3)),
    50: (Bottleneck, 256, (3, 4, 6, 3)),
}


class ImageNetResNet(Peer):
    """ResNet-18, -34 or -50: four stages, each of twice the channels of the previous.

    The layers are those of torchvision, but the padding is TensorFlow's "same", as in
    all peers: with stride 2, one pixel more on the right and below, not symmetric.

    Args:
      depth: 18, 34 or 50.
      small: for images such as CIFAR's, as in Tian et al. (2020): a 3x3 stem
        without stride and without pooling.
      **kwargs: see `Peer`.

    Raises:
      UserError: no such network has this depth.
    """

    def __init__(self, depth: int, small: bool = False, **kwargs):
        if depth not in _DEPTHS:
            names = [f"imagenet_resnet{each}{'_small' * small}" for each in _DEPTHS]
            raise UserError(
                f"there is no ImageNet ResNet of depth {depth} here: take one of "
                f"{', '.join(names)}."
            )
        block, filters, blocks = _DEPTHS[depth]
        stem = [ConvolutionBlock(64)]
        if not small:
            stem = [
                ConvolutionBlock(64, kernel_size=7, strides=2),
                keras.layers.MaxPooling2D(3, strides=2, padding="same"),
            ]
        body = {"stem": Stage(stem)}
        channels = 64
        for stage, count in enumerate(blocks, start=1):
            layers = []
            for index in range(count):
                strides = 2 if stage > 1 and not index else 1
                layers.append(block(filters, strides, channels != filters))
                channels = filters
            body[f"stage_{stage}"] = Stage(layers)
            filters *= 2
        super().__init__(downsampling=8 if small else 32, body=body, **kwargs)
