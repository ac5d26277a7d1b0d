"""Changes to a network that make it more accurate in TFLite's 8 bits.

They are context managers: behind them, the network is as it was.
"""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from afd_tf.models import Peer
from afd_tf.models.layers import ConvolutionBlock

_BATCH = 100
# TFLite's dynamic quantization leaves kernels of fewer weights in float32.
MIN_DYNAMIC_KERNEL = 1024


@contextlib.contextmanager
def bias_corrected(peer: Peer, images: np.ndarray, smallest: int = 1) -> Iterator[None]:
    """Corrects each moving mean by the error that rounded weights cause.

    TFLite rounds each output channel's weights to -127..127 times a scale. Maps behind
    a ReLU are nowhere negative, so that the errors of a channel's weights do not cancel
    out but shift it, by much the same in all images. This shift is measured here and
    added to the moving mean of the batch normalization that follows, which subtracts
    it (empirical bias correction; Nagel et al. 2019, "Data-free quantization through
    weight equalization and bias correction"). A convolution outside of a
    `ConvolutionBlock` stays as it is.

    Args:
      peer: the network.
      images: uint8 [n, h, w, c], raw pixels, not those that it is measured on.
      smallest: kernels of fewer weights are not rounded.
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
            sums[number] += mean * len(inputs) / len(images)
            return compute(inputs)

        return call

    with contextlib.ExitStack() as stack:
        for number, block in enumerate(blocks):
            layer = block.convolution
            stack.enter_context(_calling(layer, measuring(number, layer, layer.call)))
        for batch in in_batches(images):
            peer(batch, training=False)
    with contextlib.ExitStack() as stack:
        for block, moved in zip(blocks, sums, strict=True):
            stack.enter_context(shifted(block.normalization.moving_mean, moved))
        yield


def in_batches(images: np.ndarray) -> list[np.ndarray]:
    """Returns the images [n, h, w, c] in batches of at most 100."""
    return [images[n : n + _BATCH] for n in range(0, len(images), _BATCH)]


@contextlib.contextmanager
def shifted(variable: keras.Variable, by: np.ndarray) -> Iterator[None]:
    """Adds `by`, of the variable's shape, within the context."""
    kept = variable.numpy()
    variable.assign(kept + by)
    try:
        yield
    finally:
        variable.assign(kept)


@contextlib.contextmanager
def normalizing_in_one_operator(peer: Peer) -> Iterator[None]:
    """Replaces the pixels' normalization by one 1x1 depthwise convolution.

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
    """Replaces a layer's `call` within the context."""
    layer.call = call
    try:
        yield
    finally:
        del layer.call


def _rounding_error(kernel: np.ndarray) -> np.ndarray:
    """Returns the change of a kernel [..., out] when it is rounded to 8 bits.

    The scale of a channel is its largest weight divided by 127. That batch
    normalization multiplies the channel by a factor changes nothing in it.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest, 1.0) / 127
    return (np.round(kernel / scale) * scale - kernel).astype(np.float32)
