"""Layers of foreign Keras models, made to compute as ours do.

Everything here changes layers in place, at any depth: a layer that a package defines
may have its batch normalization inside, where nothing can be put in its place.
"""

import keras
import numpy as np
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.batch_normalization import BatchNormalization

# Random layers that have no generator of their own.
_STOCHASTIC = ("StochasticDepth", "DropPath")


def is_random(layer: object) -> bool:
    """Returns whether a layer draws random numbers in training: dropout and the like.

    Peers go without them: one replica and several would draw different numbers, and a
    run that goes on other ones than a run without a break.
    """
    return hasattr(layer, "seed_generator") or type(layer).__name__ in _STOCHASTIC


def adopt(model: keras.Layer) -> None:
    """Makes every layer of a built model train as the layers of our peers do.

    Batch normalization becomes that of `afd_tf.models.batch_normalization`, over the
    global batch, with the layer's own weights and epsilon, and with our momentum: the
    usual 0.99 lags behind the weights of a short training. Random layers do nothing. A
    convolution whose groups are single channels is computed as a depthwise one, and a
    dense layer of maps as a convolution (ConvNeXt has both): every format has these,
    and in 8 bits they are as exact as ours. All layers compute in the precision of the
    moment, and are trainable.

    Args:
      model: changed in place.

    Raises:
      UserError: its batch normalization is not along the channels.
    """
    model.trainable = True
    policy = keras.config.dtype_policy()
    for layer in model._flatten_layers():
        layer.dtype_policy = policy
        if isinstance(layer, keras.layers.BatchNormalization):
            _adopt_batch_normalization(layer)
        elif isinstance(layer, keras.layers.Conv2D) and _is_depthwise(layer):
            layer.convolution_op = _depthwise(layer)
        elif type(layer) is keras.layers.Dense and not isinstance(
            vars(layer).get("call"), _Pointwise
        ):
            layer.call = _Pointwise(layer)
        elif is_random(layer):
            layer.call = _in_inference(layer.call)
            # Nothing draws from them, and they are no weights.
            layer._tracker.unlock()
            layer._seed_generators.clear()
            layer._tracker.lock()


def _is_depthwise(layer: keras.layers.Conv2D) -> bool:
    strides, dilation = layer.strides, layer.dilation_rate
    return (
        layer.groups > 1
        and layer.kernel.shape[2] == 1
        # What TensorFlow's depthwise convolution takes.
        and layer.data_format == "channels_last"
        and strides[0] == strides[1]
        and (strides[0] == 1 or max(dilation) == 1)
    )


def _depthwise(layer: keras.layers.Conv2D):
    """Returns `layer.convolution_op` as a depthwise convolution."""

    def convolution(inputs, kernel):
        height, width, _, filters = kernel.shape
        return tf.nn.depthwise_conv2d(
            inputs,
            # The filters of a channel come one after the other in both.
            tf.reshape(kernel, [height, width, layer.groups, filters // layer.groups]),
            strides=[1, *layer.strides, 1],
            padding=layer.padding.upper(),
            dilations=list(layer.dilation_rate),
        )

    return convolution


class _Pointwise:
    """The `call` of a dense layer, which is a convolution of maps.

    Args:
      layer: it is built.
    """

    def __init__(self, layer: keras.layers.Dense):
        self.layer = layer
        self.of_vectors = layer.call

    def __call__(self, inputs, training=None):
        """Returns [B, h, w, units] for [B, h, w, c], and for others what Keras does."""
        layer = self.layer
        if len(inputs.shape) != 4:
            return self.of_vectors(inputs, training=training)
        kernel = tf.convert_to_tensor(layer.kernel)[None, None]
        outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding="VALID")
        if layer.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
        return layer.activation(outputs)


def _in_inference(call):
    def always_in_inference(inputs, training=False, **kwargs):
        return call(inputs, training=False, **kwargs)

    return always_in_inference


def _adopt_batch_normalization(layer: keras.layers.BatchNormalization) -> None:
    if isinstance(vars(layer).get("call"), _Adopted):
        return
    rank = layer.input_spec.ndim if layer.input_spec else None
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    if rank not in (2, 4) or axis not in (-1, rank - 1):
        raise UserError(
            f"{layer.name} normalizes a tensor of {rank} dimensions along axis {axis}: "
            "a peer needs batch normalization of [B, h, w, c] or [B, c] along the last "
            "one."
        )
    # As in ours, maps keep their dtype, and all else is float32.
    layer.autocast = False
    layer.call = _Adopted(layer, rank)
    # Found where our batch normalizations are looked for.
    layer._tracker.unlock()
    layer.ours = layer.call.ours
    layer._tracker.lock()


class _Adopted:
    """The `call` of a foreign batch normalization that computes as ours.

    Args:
      layer: it is built.
      rank: of its inputs, 2 or 4.
    """

    def __init__(self, layer: keras.layers.BatchNormalization, rank: int):
        self.rank = rank
        channels = layer.moving_mean.shape[0]
        self.ours = BatchNormalization(epsilon=layer.epsilon)
        self.ours.gamma = layer.gamma if layer.scale else np.ones(channels, np.float32)
        self.ours.beta = layer.beta if layer.center else np.zeros(channels, np.float32)
        self.ours.moving_mean = layer.moving_mean
        self.ours.moving_variance = layer.moving_variance
        self.ours.built = True

    def __call__(self, inputs, training=False, mask=None):
        """Returns the normalized inputs, [B, h, w, c] or [B, c]."""
        if self.rank == 4:
            return self.ours.call(inputs, training=training)
        return self.ours.call(inputs[:, None, None], training=training)[:, 0, 0]
