"""VGG (Simonyan and Zisserman 2015) with batch normalization for CIFAR.

As in Tian et al. (2020), whose VGG-8 the paper does not have.
"""

import keras

from afd_tf.errors import UserError
from afd_tf.models.layers import ConvolutionBlock, Stage
from afd_tf.models.peer import Peer

_CHANNELS = (64, 128, 256, 512, 512)
# Depth → the convolutions of each stage.
_DEPTHS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(Peer):
    """VGG-8, -11, -13, -16 or -19: five stages of 3x3 convolutions.

    Stages 2, 3 and 4 begin with 2x2 max pooling, so that a stage's map is the one
    before the pooling; the last stage is as large as the one before it. One dense
    layer takes the place of the paper's three.

    Args:
      depth: 8, 11, 13, 16 or 19.
      **kwargs: see `Peer`.

    Raises:
      UserError: another depth.
    """

    def __init__(self, depth: int, **kwargs):
        if depth not in _DEPTHS:
            names = [f"vgg{each}" for each in _DEPTHS]
            raise UserError(
                f"there is no VGG of depth {depth}: take one of {', '.join(names)}."
            )
        body = {}
        for stage, (filters, convolutions) in enumerate(
            zip(_CHANNELS, _DEPTHS[depth], strict=True), start=1
        ):
            layers = [
                # The bias is the published network's: the normalization undoes it.
                ConvolutionBlock(filters, use_bias=True)
                for _ in range(convolutions)
            ]
            if stage in (2, 3, 4):
                layers.insert(0, keras.layers.MaxPooling2D(2, padding="same"))
            body[f"stage_{stage}"] = Stage(layers)
        super().__init__(downsampling=8, body=body, **kwargs)
