"""What a network gets for TFLite's 8 bits: another form of the same numbers.

The context managers leave the network as it was.
"""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from afd_tf.models import Peer
from afd_tf.models.layers import ConvolutionBlock

_BATCH = 100
# TFLite leaves smaller kernels in float32 where activations are float32 as well.
SMALLEST_ROUNDED_ALONE = 1024


@contextlib.contextmanager
def bias_corrected(
    peer: Peer, pictures: np.ndarray, smallest: int = 1
) -> Iterator[None]:
    """Takes out of each batch normalization what rounded weights add to the mean.

    TFLite rounds each output channel's weights to -127..127 times a scale. Maps behind
    a ReLU are nowhere negative, so that the errors of a channel's weights do not cancel
    out but move it, much alike in all pictures. By how much is measured here, and comes
    off the moving mean behind (empirical bias correction; Nagel et al. 2019,
    "Data-free quantization through weight equalization and bias correction").
    A convolution outside of a `ConvolutionBlock` stays as it is.

    Args:
      peer: the network.
      pictures: uint8 [n, h, w, c], not those that it is measured on.
      smallest: kernels of fewer numbers are not rounded.
    """
    blocks = [
        layer
        for layer in peer._flatten_layers()
        if isinstance(layer, ConvolutionBlock)
        and np.prod(layer.convolution.kernel.shape) >= smallest
    ]
    sums = [0.0] * len(blocks)

    def measuring(number, convolution, compute):
        error = _rounding_error(convolution.kernel.numpy())

        def call(inputs):
            moved = convolution.convolution_op(inputs, error)
            mean = tf.reduce_mean(moved, axis=(0, 1, 2)).numpy()
            sums[number] += mean * len(inputs) / len(pictures)
            return compute(inputs)

        return call

    with contextlib.ExitStack() as stack:
        for number, block in enumerate(blocks):
            layer = block.convolution
            stack.enter_context(_calling(layer, measuring(number, layer, layer.call)))
        for batch in in_batches(pictures):
            peer(batch, training=False)
    with contextlib.ExitStack() as stack:
        for block, moved in zip(blocks, sums, strict=True):
            stack.enter_context(shifted(block.normalization.moving_mean, moved))
        yield


def in_batches(pictures: np.ndarray) -> list[np.ndarray]:
    """Returns the pictures in parts that a network can take at once."""
    return [pictures[n : n + _BATCH] for n in range(0, len(pictures), _BATCH)]


@contextlib.contextmanager
def shifted(variable: keras.Variable, by: np.ndarray) -> Iterator[None]:
    """Adds to a variable for a while."""
    kept = variable.numpy()
    variable.assign(kept + by)
    try:
        yield
    finally:
        variable.assign(kept)


@contextlib.contextmanager
def normalizing_in_one_operator(peer: Peer) -> Iterator[None]:
    """Makes the pixels' normalization a 1x1 depthwise convolution.

    A multiplication and a subtraction would each round their result to 8 bits.
    """
    layer = peer.normalization

    def call(images):
        kernel = tf.reshape(layer.scale, [1, 1, -1, 1])
        scaled = tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], "VALID")
        return tf.nn.bias_add(scaled, -layer.offset)

    with _calling(layer, call):
        yield


@contextlib.contextmanager
def _calling(layer, call) -> Iterator[None]:
    """Lets a layer compute with `call`."""
    layer.call = call
    try:
        yield
    finally:
        del layer.call


def _rounding_error(kernel: np.ndarray) -> np.ndarray:
    """Returns what rounding to 8 bits adds to a kernel [..., out].

    The scale of a channel is its largest weight's; what batch normalization multiplies
    the channel with changes nothing in it.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest, 1.0) / 127
    return (np.round(kernel / scale) * scale - kernel).astype(np.float32)
