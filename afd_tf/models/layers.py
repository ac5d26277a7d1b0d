"""The layers of peers and discriminators.

All feature maps are [batch, height, width, channels].
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from afd_tf.models.batch_normalization import BatchNormalization
from afd_tf.models.stage import Composite


def he_normal() -> keras.initializers.Initializer:
    """Returns the initializer of He et al. (2015), fan-out.

    It draws a kernel [height, width, channels, filters] from
    N(0, 2 / (height * width * filters)).
    """
    return keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="untruncated_normal"
    )


def convolution(
    filters: int, kernel_size: int, strides: int = 1, use_bias: bool = False
) -> keras.layers.Conv2D:
    """Returns a "same" convolution, by default without bias.

    Batch normalization behind it would undo a bias.
    """
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=use_bias,
        kernel_initializer=he_normal(),
    )


def depthwise_convolution(
    strides: int = 1, kernel_size: int = 3
) -> keras.layers.DepthwiseConv2D:
    """Returns a "same" convolution of each channel by itself, without bias."""
    return keras.layers.DepthwiseConv2D(
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=he_normal(),
    )


def adaptive_average_pooling(maps: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Averages maps of any size down to a given one, as PyTorch's layer of this name.

    Row i of n averages the rows from floor(i h / n) to ceil((i + 1) h / n), and the
    same with columns. (Keras 3.12 has no such layer.)

    Args:
      maps: [B, h, w, c].
      size: height and width of the result, at most (h, w).

    Returns:
      [B, size[0], size[1], c].
    """
    for axis, length in enumerate(size, start=1):
        if maps.shape[axis] != length:
            weights = tf.constant(pooling_weights(maps.shape[axis], length), maps.dtype)
            # The pooled axis becomes the last one and goes back to its place.
            order = [0, 3, 1, 2] if axis == 1 else [0, 1, 3, 2]
            maps = tf.transpose(tf.tensordot(maps, weights, [[axis], [0]]), order)
    return maps


def pooling_weights(length: int, cells: int) -> np.ndarray:
    """Returns the matrix of `adaptive_average_pooling` along one axis.

    Args:
      length: the number of elements to be pooled.
      cells: the number of averages.

    Returns:
      float32 [length, cells]; each column sums to 1.
    """
    weights = np.zeros((length, cells), np.float32)
    for cell in range(cells):
        start, stop = cell * length // cells, -(-(cell + 1) * length // cells)
        weights[start:stop, cell] = 1.0 / (stop - start)
    return weights


class PixelNormalization(keras.layers.Layer):
    """Raw pixels to zero mean and unit variance: `(pixels - mean) / sqrt(variance)`.

    It is the first layer of every peer, so that training, the server and the phone
    all take raw pixels. It computes in float32 under every precision policy.

    A grey image becomes as many channels as there are means: networks whose weights
    come from photos in colour take it.

    Args:
      mean: of the raw pixels 0..255, one per channel.
      variance: of the raw pixels, one per channel; 0, of a channel that never varies,
        counts as 1.
      reverse: whether the result has its channels in the reverse order, as networks
        from Caffe expect them; mean and variance are in the order of the result.
      **kwargs: of a Keras layer.

    Attributes:
      scale: the factor of the pixels, float32 [c].
      offset: subtracted afterwards, float32 [c].
    """

    def __init__(
        self,
        mean: Sequence[float],
        variance: Sequence[float],
        reverse: bool = False,
        **kwargs,
    ):
        super().__init__(dtype="float32", **kwargs)
        self.reverse = reverse
        self.mean = tuple(float(value) for value in mean)
        self.variance = tuple(float(value) for value in variance)
        deviation = np.sqrt([value or 1.0 for value in self.variance])
        # One multiplication and one subtraction: nothing else of this layer has to be
        # computed on a phone.
        self.scale = (1.0 / deviation).astype(np.float32)
        self.offset = (np.asarray(self.mean) / deviation).astype(np.float32)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, h, w, c] for uint8 or float [B, h, w, c or 1], 0..255."""
        pixels = tf.cast(images, tf.float32)
        if self.reverse:
            pixels = tf.reverse(pixels, axis=[-1])
        return pixels * self.scale - self.offset

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "mean": self.mean,
            "variance": self.variance,
            "reverse": self.reverse,
        }


class ConvolutionBlock(Composite):
    """Convolution, batch normalization and, by default, ReLU.

    Args:
      filters: channels of the output; None convolves each channel by itself.
      kernel_size: height and width of the kernel.
      strides: in both directions.
      activation: whether a ReLU ends the block.
      use_bias: whether the convolution has a bias; it needs `filters`.
      relu6: whether the ReLU is cut off at 6.
      epsilon: of the batch normalization.
      **kwargs: of a Keras layer.
    """

    def __init__(
        self,
        filters: int | None,
        kernel_size: int = 3,
        strides: int = 1,
        *,
        activation: bool = True,
        use_bias: bool = False,
        relu6: bool = False,
        epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.activation = activation
        self.relu = tf.nn.relu6 if relu6 else tf.nn.relu
        if filters is None:
            self.convolution = depthwise_convolution(strides, kernel_size)
        else:
            self.convolution = convolution(filters, kernel_size, strides, use_bias)
        self.normalization = BatchNormalization(epsilon=epsilon)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, ceil(h / strides), ceil(w / strides), filters]."""
        outputs = self.normalization(self.convolution(inputs), training=training)
        return self.relu(outputs) if self.activation else outputs


class NormalizedActivation(Composite):
    """Batch normalization and ReLU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = BatchNormalization()

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, h, w, c], not negative."""
        return tf.nn.relu(self.normalization(inputs, training=training))
