"""Changes to a network that make it more accurate in TFLite's 8 bits.

They are context managers: behind them, the network is as it was.
"""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from afd_tf.models import Peer

# Images of a batch, and its pixels: 10 images of 224x224, as all maps are kept.
_BATCH = 100
_BATCH_PIXELS = 2**19
# TFLite's dynamic quantization leaves kernels of fewer weights in float32.
MIN_DYNAMIC_KERNEL = 1024


@contextlib.contextmanager
def bias_corrected(peer: Peer, images: np.ndarray, smallest: int = 1) -> Iterator[None]:
    """Corrects each moving mean by the error that rounded weights cause.

    TFLite rounds each output channel's weights to -127..127 times a scale. Maps behind
    a ReLU are nowhere negative, so that the errors of a channel's weights do not cancel
    out but shift it, by much the same in all images. This shift is measured here and
    added to the moving mean of the batch normalization that follows, which subtracts
    it, or else taken off the convolution's bias (empirical bias correction; Nagel et
    al. 2019, "Data-free quantization through weight equalization and bias correction").
    A convolution with neither stays as it is.

    Args:
      peer: the network.
      images: uint8 [n, h, w, c], raw pixels, not those that it is measured on.
      smallest: kernels of fewer weights are not rounded.
    """
    layers = list(peer._flatten_layers())
    convolutions = [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)
        and np.prod(layer.kernel.shape) >= smallest
    ]
    sums = [0.0] * len(convolutions)
    outputs: list[tf.Tensor | None] = [None] * len(convolutions)
    followers: dict[int, keras.layers.Layer] = {}

    def measuring(number, convolution, compute):
        error = _rounding_error(convolution)

        def call(inputs):
            moved = _convolved(convolution, inputs, error)
            mean = tf.reduce_mean(moved, axis=(0, 1, 2)).numpy()
            sums[number] += mean * len(inputs) / len(images)
            outputs[number] = compute(inputs)
            return outputs[number]

        return call

    def following(layer, compute):
        def call(inputs, **kwargs):
            for number, output in enumerate(outputs):
                if inputs is output:
                    followers[number] = layer
            return compute(inputs, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(convolutions):
            stack.enter_context(_calling(layer, measuring(number, layer, layer.call)))
        for layer in layers:
            if hasattr(layer, "moving_mean"):
                stack.enter_context(_calling(layer, following(layer, layer.call)))
        for batch in in_batches(images):
            peer(batch, training=False)
    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(convolutions):
            if number in followers:
                mean = followers[number].moving_mean
                stack.enter_context(shifted(mean, sums[number]))
            elif layer.use_bias:
                stack.enter_context(shifted(layer.bias, -sums[number]))
        yield


def in_batches(images: np.ndarray) -> list[np.ndarray]:
    """Returns the images [n, h, w, c] in batches of 100, or of fewer large ones."""
    size = max(1, min(_BATCH, _BATCH_PIXELS // np.prod(images.shape[1:3])))
    return [images[n : n + size] for n in range(0, len(images), size)]


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
    """Replaces the pixels' normalization by one 1x1 convolution.

    A multiplication and a subtraction would each round their result to 8 bits.
    """
    layer = peer.normalization

    def call(images):
        channels = images.shape[-1]
        if layer.reverse and channels > 1:
            kernel = np.diag(layer.scale)[::-1][np.newaxis, np.newaxis]
            return tf.nn.bias_add(
                tf.nn.conv2d(images, kernel, 1, "VALID"), -layer.offset
            )
        kernel = tf.reshape(layer.scale, [1, 1, channels, -1])
        scaled = tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], "VALID")
        return tf.nn.bias_add(scaled, -layer.offset)

    with _calling(layer, call):
        yield


@contextlib.contextmanager
def _calling(layer, call) -> Iterator[None]:
    """Replaces a layer's `call` within the context."""
    kept = vars(layer).get("call")
    layer.call = call
    try:
        yield
    finally:
        if kept is None:
            del layer.call
        else:
            layer.call = kept


def _convolved(layer, inputs: tf.Tensor, kernel: np.ndarray) -> tf.Tensor:
    """Returns what a convolution gives with another kernel, and without bias."""
    if isinstance(layer, keras.layers.Conv2D):
        return layer.convolution_op(inputs, kernel)
    return keras.ops.depthwise_conv(
        inputs,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _rounding_error(layer) -> np.ndarray:
    """Returns the change of a convolution's kernel when it is rounded to 8 bits.

    The scale of a channel is its largest weight divided by 127. That batch
    normalization multiplies the channel by a factor changes nothing in it.
    """
    kernel = layer.kernel.numpy()
    # An output channel of a depthwise convolution has one input channel.
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    axes = (0, 1) if depthwise else (0, 1, 2)
    largest = np.abs(kernel).max(axis=axes, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0) / 127
    return (np.round(kernel / scale) * scale - kernel).astype(np.float32)
