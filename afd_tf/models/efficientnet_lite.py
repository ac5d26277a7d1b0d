"""EfficientNet-Lite (Liu 2020), made for phones that compute in 8 bits.

It is EfficientNet (Tan and Le 2019) without squeeze-and-excitation, with ReLU6 instead
of swish, and with a stem and a head that keep their width. The layers, and the order of
`published_blocks`, are those of TensorFlow's `efficientnet/lite` and of its PyTorch
port `efficientnet-lite-pytorch`.

Two parts of the published training are left out: dropout before the classifier, and
stochastic depth. Their random numbers would differ between one replica and several,
which here compute the same.
"""

import itertools
import math
from collections.abc import Iterator

import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.layers import ConvolutionBlock
from afd_tf.models.peer import Peer
from afd_tf.models.stage import Composite, Stage

# What the published weights expect: (pixels - 127) / 128.
MEAN = (127.0,) * 3
VARIANCE = (128.0**2,) * 3

# The factors of width and depth of Lite0 to Lite4.
_FACTORS = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
_STEM, _HEAD = 32, 1280
# The groups of blocks of each stage: expansion, kernel size, stride of the first block,
# channels and number of blocks of Lite0. A stage ends before the size changes.
_STAGES = (
    ((1, 3, 1, 16, 1),),
    ((6, 3, 2, 24, 2),),
    ((6, 5, 2, 40, 2),),
    ((6, 3, 2, 80, 3), (6, 5, 1, 112, 3)),
    ((6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
)


def _rounded(channels: float) -> int:
    """Returns the nearest multiple of 8, none that is less than 90 % of `channels`."""
    multiple = max(8, int(channels + 4) // 8 * 8)
    return multiple + 8 if multiple < 0.9 * channels else multiple


def _block(filters: int | None, kernel_size: int = 1, **kwargs) -> ConvolutionBlock:
    """Returns convolution, batch normalization with the published epsilon and ReLU6."""
    return ConvolutionBlock(filters, kernel_size, relu6=True, epsilon=1e-3, **kwargs)


class InvertedResidual(Composite):
    """1x1 to more channels, k x k in each of them, 1x1 back without ReLU6.

    The input is added where the shape stays.

    Args:
      filters: channels of the output.
      expanded: channels in between; None leaves out the first convolution.
      kernel_size: k.
      strides: of the k x k convolution, in both directions.
      shortcut: whether the input is added.
      **kwargs: of a Keras layer.
    """

    def __init__(
        self,
        filters: int,
        expanded: int | None,
        kernel_size: int,
        strides: int,
        shortcut: bool,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shortcut = shortcut
        expansion = [] if expanded is None else [_block(expanded)]
        self.residual = Stage(
            [
                *expansion,
                _block(None, kernel_size, strides=strides),
                _block(filters, activation=False),
            ]
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, h / strides, w / strides, filters]."""
        residual = self.residual(inputs, training=training)
        return residual + inputs if self.shortcut else residual


class EfficientNetLite(Peer):
    """EfficientNet-Lite0 to -Lite4: five stages, then 1x1 to 1280 channels.

    Args:
      number: 0 to 4.
      **kwargs: see `Peer`.

    Raises:
      UserError: no such network has this number.
    """

    def __init__(self, number: int, **kwargs):
        if number >= len(_FACTORS):
            names = [f"efficientnet_lite{each}" for each in range(len(_FACTORS))]
            raise UserError(
                f"there is no EfficientNet-Lite{number}: take one of "
                f"{', '.join(names)}."
            )
        width, depth = _FACTORS[number]
        body = {"stem": _block(_STEM, kernel_size=3, strides=2)}
        channels = _STEM
        groups = list(itertools.chain(*_STAGES))
        for stage, members in enumerate(_STAGES, start=1):
            layers = []
            for group in members:
                expansion, kernel_size, first_strides, full, blocks = group
                filters = _rounded(full * width)
                # Neither the first nor the last group gets more blocks.
                if group not in (groups[0], groups[-1]):
                    blocks = math.ceil(blocks * depth)
                for index in range(blocks):
                    strides = 1 if index else first_strides
                    layers.append(
                        InvertedResidual(
                            filters,
                            expansion * channels if expansion > 1 else None,
                            kernel_size,
                            strides,
                            shortcut=strides == 1 and channels == filters,
                        )
                    )
                    channels = filters
            body[f"stage_{stage}"] = Stage(layers)
        body["features"] = _block(_HEAD)
        super().__init__(downsampling=32, body=body, **kwargs)

    def published_blocks(self) -> Iterator[tuple[str, str, ConvolutionBlock]]:
        """Yields each convolution with its published names.

        Yields:
          (name of the convolution, name of its batch normalization, the block), first
          to last.
        """
        yield "_conv_stem", "_bn0", self.body["stem"]
        stages = (layer for name, layer in self.body.items() if "stage" in name)
        blocks = (block for stage in stages for block in stage.layers)
        names = ("_expand_conv", "_depthwise_conv", "_project_conv")
        for number, block in enumerate(blocks):
            layers = block.residual.layers
            for place, layer in zip((2, 1, 0), reversed(layers), strict=False):
                yield (
                    f"_blocks.{number}.{names[place]}",
                    f"_blocks.{number}._bn{place}",
                    layer,
                )
        yield "_conv_head", "_bn1", self.body["features"]
