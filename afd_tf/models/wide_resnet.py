"""Wide ResNet for CIFAR (Zagoruyko and Komodakis 2016), pre-activation, no dropout."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from afd_tf.errors import UserError
from afd_tf.models.layers import BatchNormalization, convolution
from afd_tf.models.peer import Peer


class PreActivationBlock(keras.layers.Layer):
    """(BN, ReLU, 3x3 convolution) twice, and a shortcut.

    The shortcut is the identity, or, where the channels change, a 1x1 convolution of
    the activated input.
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

    `features` is the map after the last batch normalization and ReLU: the one that
    is pooled.

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
        super().__init__(downsampling=4, **kwargs)
        self.stem = convolution(16, 3)
        self.stages = []
        channels = 16
        for stage, filters in enumerate((16 * width, 32 * width, 64 * width)):
            blocks_of_stage = []
            for index in range(blocks):
                strides = 2 if stage and not index else 1
                blocks_of_stage.append(
                    PreActivationBlock(filters, strides, project=channels != filters)
                )
                channels = filters
            self.stages.append(blocks_of_stage)
        self.last_normalization = BatchNormalization()

    def extract(self, inputs: tf.Tensor, training: bool) -> Mapping[str, tf.Tensor]:
        """Returns `stem`, `stage_1` to `stage_3`, `features`; see `Peer.extract`."""
        maps = {"stem": self.stem(inputs)}
        outputs = maps["stem"]
        for number, stage in enumerate(self.stages, start=1):
            for block in stage:
                outputs = block(outputs, training=training)
            maps[f"stage_{number}"] = outputs
        maps["features"] = tf.nn.relu(
            self.last_normalization(outputs, training=training)
        )
        return maps
