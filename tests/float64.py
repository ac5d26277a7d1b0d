"""All that learns in 64 bits, to tell rounding from other differences."""

import sys
from typing import NamedTuple

import keras
import tensorflow as tf

from afd_tf.distill.method import Method
from afd_tf.models.batch_normalization import BatchNormalization


class Normalized(NamedTuple):
    """What the fused kernel returns first."""

    y: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor


def _number(value):
    return tf.constant(value, tf.float64) if isinstance(value, float) else value


class _Wide:
    """TensorFlow, in which float32 is float64."""

    float32 = tf.float64

    def constant(self, value, dtype=None):
        number = tf.constant(value, dtype)
        return tf.cast(number, tf.float64) if number.dtype == tf.float32 else number

    # Python's numbers that come first become float32.
    def pow(self, base, exponent):
        return tf.pow(_number(base), exponent)

    def minimum(self, one, two):
        return tf.minimum(_number(one), two)

    def __getattr__(self, name):
        return getattr(tf, name)


def _wide(dtype):
    return "float64" if dtype == "float32" else dtype


def compute_in_64_bits() -> None:
    """Makes networks, losses, gradients and optimizers float64; images stay."""
    keras.config.set_floatx("float64")
    for name, module in list(sys.modules.items()):
        if name.startswith(("afd_tf.distill", "afd_tf.models")) and hasattr(
            module, "tf"
        ):
            module.tf = _Wide()

    policy = keras.DTypePolicy.__init__
    keras.DTypePolicy.__init__ = lambda self, name: policy(self, _wide(name))
    add_weight = keras.Layer.add_weight
    keras.Layer.add_weight = lambda self, *args, dtype=None, **rest: add_weight(
        self, *args, dtype=_wide(dtype), **rest
    )
    keras.mixed_precision.set_dtype_policy("float64")

    def moments(self, inputs, mean, variance):
        # TensorFlow's kernel takes no float64.
        if isinstance(mean, list):
            mean, variance = tf.nn.moments(inputs, axes=(0, 1, 2))
        output = tf.nn.batch_normalization(
            inputs, mean, variance, self.beta, self.gamma, self.epsilon
        )
        count = tf.cast(tf.size(inputs) / tf.size(mean), tf.float64)
        return Normalized(output, mean, variance * count / (count - 1.0))

    BatchNormalization._fused = moments

    def widened(batch):
        return {
            key: tf.cast(x, tf.float64) if x.dtype == tf.float32 else x
            for key, x in batch.items()
        }

    count_correct, take_step = Method.count_correct, Method.take_step

    def step(self, batch):
        metrics = take_step(self, widened(batch))
        return {name: tf.cast(value, tf.float32) for name, value in metrics.items()}

    Method.take_step = step
    Method.count_correct = lambda self, batch: count_correct(self, widened(batch))
