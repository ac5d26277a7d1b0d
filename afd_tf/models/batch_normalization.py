"""Batch normalization over the global batch, and the mode in which layers train."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class TrainingMode:
    """The way in which layers work in training; see `training_mode`."""

    frozen: bool = False
    local: bool = False
    remat: bool = False


class _OfThread(threading.local):
    # MirroredStrategy traces each replica in a thread of its own.
    mode = TrainingMode()


_OF_THREAD = _OfThread()


def current_mode() -> TrainingMode:
    """Returns the mode of the innermost `training_mode` around the caller."""
    return _OF_THREAD.mode


@contextlib.contextmanager
def training_mode(
    *, frozen: bool = False, local: bool = False, remat: bool = False
) -> Iterator[None]:
    """Sets how layers that are called in training work, in this thread.

    Args:
      frozen: leaves the moving statistics alone: for a second forward over a batch
        that has already been counted.
      local: takes the batch statistics of each replica's part of the batch by itself;
        the moving statistics of the replicas then differ until they are averaged.
      remat: makes a `Stage` keep only the inputs of its layers and compute everything
        inside them again for the gradient: less memory, more time.
    """
    before = _OF_THREAD.mode
    _OF_THREAD.mode = TrainingMode(frozen=frozen, local=local, remat=remat)
    try:
        yield
    finally:
        _OF_THREAD.mode = before


class BatchNormalization(keras.layers.Layer):
    """Batch normalization over the *global* batch, with PyTorch's constants.

    On one replica it is TensorFlow's fused kernel. On several, the batch moments are
    summed over the replicas first, so that any number of replicas computes the same
    as one (unless `training_mode` asks for local ones). The moving variance follows
    the unbiased batch variance, as in PyTorch and in the fused kernel; Keras' own layer
    takes the biased one and is not fused.

    Statistics, scale and shift are float32 under every precision policy.

    Attributes:
      keeps_statistics: whether training, too, normalizes with the moving statistics and
        leaves them as they are.

    Args:
      momentum: the part of a moving statistic that a batch leaves as it is, 0..1;
        PyTorch's momentum 0.1 is 0.9 here.
      epsilon: added to the variance.
      **kwargs: of a Keras layer.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.keeps_statistics = False

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates scale and shift, and the moving mean and variance, each [c]."""

        def vector(name: str, value: str, trainable: bool) -> keras.Variable:
            return self.add_weight(
                shape=(input_shape[-1],),
                initializer=value,
                name=name,
                dtype="float32",
                autocast=False,
                trainable=trainable,
            )

        self.gamma = vector("gamma", "ones", True)
        self.beta = vector("beta", "zeros", True)
        self.moving_mean = vector("moving_mean", "zeros", False)
        self.moving_variance = vector("moving_variance", "ones", False)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalizes maps and, in training, moves the statistics.

        Args:
          inputs: [B, h, w, c].
          training: whether to use the batch's statistics instead of the moving ones.

        Returns:
          [B, h, w, c], of the input's dtype.
        """
        if not training or self.keeps_statistics:
            return self._fused(
                inputs, mean=self.moving_mean, variance=self.moving_variance
            ).y
        mode = current_mode()
        one_replica = tf.distribute.get_strategy().num_replicas_in_sync == 1
        if one_replica or mode.local:
            output, mean, variance, *_ = self._fused(inputs, mean=[], variance=[])
        else:
            output, mean, variance = self._synchronized(inputs)
        if not mode.frozen:
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, variance)
        return output

    def _move(self, moving: keras.Variable, batch: tf.Tensor) -> None:
        # The handle is the replica's own copy: no exchange with the others.
        tf.raw_ops.AssignVariableOp(
            resource=moving.value.handle,
            value=moving + (batch - moving) * (1.0 - self.momentum),
        )

    def _fused(self, inputs, mean, variance):
        """Returns the fused kernel's outputs: maps, mean, unbiased variance and more.

        Args:
          inputs: [B, h, w, c].
          mean: [c]; an empty list takes mean and variance of the batch.
          variance: [c], or an empty list.
        """
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=tf.convert_to_tensor(mean, tf.float32),
            variance=tf.convert_to_tensor(variance, tf.float32),
            epsilon=self.epsilon,
            is_training=isinstance(mean, list),
        )

    def _synchronized(self, inputs):
        """Returns normalized maps, mean and unbiased variance, [c], of all replicas.

        They take one all-reduce of 2 c + 1 numbers.
        """
        # Moments about the moving mean: E[x^2] - E[x]^2 about zero cancels badly.
        pivot = tf.stop_gradient(tf.convert_to_tensor(self.moving_mean))
        values = tf.cast(inputs, tf.float32)
        centred = values - pivot
        count = tf.cast(tf.size(values) / tf.size(pivot), tf.float32)
        first = tf.reduce_sum(centred, axis=(0, 1, 2))
        second = tf.reduce_sum(tf.square(centred), axis=(0, 1, 2))
        moments = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, tf.concat([first, second, [count]], axis=0)
        )
        first, second, count = tf.split(moments, [pivot.shape[0], pivot.shape[0], 1])
        offset = first / count
        variance = second / count - tf.square(offset)
        mean = pivot + offset
        output = tf.nn.batch_normalization(
            values, mean, variance, self.beta, self.gamma, self.epsilon
        )
        unbiased = variance * count / tf.maximum(count - 1.0, 1.0)
        return tf.cast(output, inputs.dtype), mean, unbiased

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


def keep_statistics(network: keras.Model, kept: bool) -> None:
    """Sets whether the batch normalizations of a network keep their statistics.

    Args:
      network: built.
      kept: see `BatchNormalization`.
    """
    for layer in network._flatten_layers():
        if isinstance(layer, BatchNormalization):
            layer.keeps_statistics = kept
