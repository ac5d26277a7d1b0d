"""VGG (Simonyan and Zisserman 2015) with batch normalization for CIFAR.

The layers are those of Tian et al. (2020), who added VGG-8.
"""

import keras

from afd_tf.base.errors import UserError
from afd_tf.models.layers import ConvolutionBlock
from afd_tf.models.peer import Peer
from afd_tf.models.stage import Stage

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

    Stages 2, 3 and 4 begin with 2x2 max pooling, so that the map of a stage is the one
    before the next pooling; stage 5 keeps the size of stage 4. The classifier is one
    dense layer, where the paper has three.

    Args:
      depth: 8, 11, 13, 16 or 19.
      **kwargs: see `Peer`.

    Raises:
      UserError: no such network has this depth.
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
                # The bias has no effect, as the normalization undoes it, but the
                # published network has it.
                ConvolutionBlock(filters, use_bias=True)
                for _ in range(convolutions)
            ]
            if stage in (2, 3, 4):
                layers.insert(0, keras.layers.MaxPooling2D(2, padding="same"))
            body[f"stage_{stage}"] = Stage(layers)
        super().__init__(downsampling=8, body=body, **kwargs)
