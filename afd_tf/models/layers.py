"""Layers that every peer and discriminator is made of.

All feature maps are `[batch, height, width, channels]`.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

_MODE = threading.local()


@contextlib.contextmanager
def training_mode(
    *, frozen: bool = False, local: bool = False, remat: bool = False
) -> Iterator[None]:
    """Says inside it how layers work in training.

    The switches are per thread, because MirroredStrategy traces each replica in its
    own.

    Args:
      frozen: leaves the moving statistics alone: for a second forward over a batch
        that has already been counted.
      local: batch statistics of each replica's part of the batch by itself; the moving
        statistics then differ, until somebody averages them.
      remat: a `Stage` keeps what enters each of its layers, and computes what is inside
        again for the gradient: less memory, more time.
    """
    before = vars(_MODE).copy()
    vars(_MODE).update(frozen=frozen, local=local, remat=remat)
    try:
        yield
    finally:
        vars(_MODE).clear()
        vars(_MODE).update(before)


def _mode(switch: str) -> bool:
    return getattr(_MODE, switch, False)


def he_normal() -> keras.initializers.Initializer:
    """He et al. (2015), fan-out: N(0, 2 / (height * width * filters))."""
    return keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_out", distribution="untruncated_normal"
    )


def convolution(
    filters: int, kernel_size: int, strides: int = 1, use_bias: bool = False
) -> keras.layers.Conv2D:
    """A "same" convolution, without the bias that batch normalization would undo."""
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=use_bias,
        kernel_initializer=he_normal(),
    )


def depthwise_convolution(strides: int = 1) -> keras.layers.DepthwiseConv2D:
    """A "same" 3x3 convolution of each channel by itself, without bias."""
    return keras.layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=he_normal(),
    )


def adaptive_average_pooling(maps: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Averages maps down to one size, whatever theirs is.

    Cell i of n covers the rows from floor(i h / n) to ceil((i + 1) h / n), as in
    PyTorch's layer of this name, and columns likewise. (Keras' own is not in 3.12.)

    Args:
      maps: [B, h, w, c].
      size: (height, width) of the result, at most (h, w).
    """
    for axis, length in enumerate(size, start=1):
        if maps.shape[axis] != length:
            weights = tf.constant(pooling_weights(maps.shape[axis], length), maps.dtype)
            # The pooled axis becomes the last one and goes back to its place.
            order = [0, 3, 1, 2] if axis == 1 else [0, 1, 3, 2]
            maps = tf.transpose(tf.tensordot(maps, weights, [[axis], [0]]), order)
    return maps


def pooling_weights(length: int, cells: int) -> np.ndarray:
    """Returns float32 [length, cells], whose columns average the elements of a cell."""
    weights = np.zeros((length, cells), np.float32)
    for cell in range(cells):
        start, stop = cell * length // cells, -(-(cell + 1) * length // cells)
        weights[start:stop, cell] = 1.0 / (stop - start)
    return weights


class PixelNormalization(keras.layers.Layer):
    """Raw pixels to zero mean and unit variance: `(pixels - mean) / sqrt(variance)`.

    It is the first layer of every peer, so that training, the server and the phone
    all take raw pixels. It computes in float32 under every precision policy.

    Args:
      mean: one per channel, in raw pixel units (0..255).
      variance: one per channel, in squared raw pixel units; a channel that never
        varies counts as variance 1.

    Attributes:
      scale: what pixels are multiplied by, float32 [c].
      offset: what is then subtracted, float32 [c].
    """

    def __init__(self, mean: Sequence[float], variance: Sequence[float], **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.mean = tuple(float(value) for value in mean)
        self.variance = tuple(float(value) for value in variance)
        deviation = np.sqrt([value or 1.0 for value in self.variance])
        # One multiplication and one subtraction: what is left of this layer on a
        # phone.
        self.scale = (1.0 / deviation).astype(np.float32)
        self.offset = (np.asarray(self.mean) / deviation).astype(np.float32)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns float32 [B, h, w, c] for uint8 or float [B, h, w, c] in 0..255."""
        return tf.cast(images, tf.float32) * self.scale - self.offset

    def get_config(self) -> dict:
        """Returns what `from_config` needs."""
        return {**super().get_config(), "mean": self.mean, "variance": self.variance}


class BatchNormalization(keras.layers.Layer):
    """Batch normalization over the *global* batch, with PyTorch's constants.

    On one replica it is TensorFlow's fused kernel. On several, the batch moments are
    summed over the replicas first, so that any number of replicas computes the same
    as one (unless `training_mode` asks for local ones). The moving variance takes
    the unbiased batch variance, as in PyTorch and in the fused kernel; Keras' own layer
    takes the biased one and is not fused.

    Statistics, scale and shift are float32 under every precision policy.

    Args:
      momentum: of the moving statistics; PyTorch's momentum 0.1 is 0.9 here.
      epsilon: added to the variance.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon

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
        """Returns normalized [B, h, w, c], of the input's dtype."""
        if not training:
            return self._fused(
                inputs, mean=self.moving_mean, variance=self.moving_variance
            ).y
        alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
        if alone or _mode("local"):
            output, mean, variance, *_ = self._fused(inputs, mean=[], variance=[])
        else:
            output, mean, variance = self._synchronized(inputs)
        if not _mode("frozen"):
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, variance)
        return output

    def _move(self, moving: keras.Variable, batch: tf.Tensor) -> None:
        # The replica's own copy, without asking the others.
        tf.raw_ops.AssignVariableOp(
            resource=moving.value.handle,
            value=moving + (batch - moving) * (1.0 - self.momentum),
        )

    def _fused(self, inputs, mean, variance):
        """The kernel's outputs; it uses the batch's moments where none are given."""
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
        """Moments over all replicas from one all-reduce of [2 c + 1] numbers."""
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
        """Returns what `from_config` needs."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


class Composite(keras.layers.Layer):
    """A layer made of layers, each of which is built by its own first call.

    Left to find that out, Keras calls the composite symbolically before its first
    call, and what is nested in it once more for each level.
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates nothing: that there is a `build` is what counts."""


class ConvolutionBlock(Composite):
    """Convolution, batch normalization and, unless told otherwise, ReLU.

    Args:
      filters: channels out.
      kernel_size: of the square kernel.
      strides: in both directions.
      activation: whether a ReLU ends the block.
      use_bias: whether the convolution has one.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        activation: bool = True,
        use_bias: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.activation = activation
        self.convolution = convolution(filters, kernel_size, strides, use_bias)
        self.normalization = BatchNormalization()

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, ceil(h / strides), ceil(w / strides), filters]."""
        outputs = self.normalization(self.convolution(inputs), training=training)
        return tf.nn.relu(outputs) if self.activation else outputs


class Stage(Composite):
    """Layers one after the other, without the symbolic calls of `keras.Sequential`.

    Args:
      layers: each takes what the one before it gives.
      **kwargs: of a Keras layer.
    """

    def __init__(self, layers: Sequence[keras.layers.Layer], **kwargs):
        super().__init__(**kwargs)
        self.layers = list(layers)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns what the last layer does."""
        for layer in self.layers:
            if training and _mode("remat"):
                inputs = _recomputed(layer, inputs)
            else:
                inputs = layer(inputs, training=training)
        return inputs


def _recomputed(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """Runs a layer in training without keeping what its gradient will need.

    Unlike `tf.recompute_grad`, it finishes with a layer on the way back before the one
    below begins. Nothing waits for the gradients of weights: left until the end, they
    keep all that was computed again.
    """
    local = _mode("local")

    @tf.custom_gradient
    def forward(values):
        def gradient(upstream, variables=()):
            # Not before the way back has come here, which neither XLA nor TensorFlow
            # may see through.
            some = tf.abs(tf.reshape(upstream, [-1])[:1])
            zero = tf.reduce_sum(tf.minimum(some, 0))
            again = values + tf.cast(zero, values.dtype)
            with (
                tf.GradientTape() as tape,
                # The first forward has counted the batch.
                training_mode(frozen=True, local=local),
            ):
                tape.watch(again)
                outputs = layer(again, training=True)
            downstream, *own = tape.gradient(
                outputs, [again, *variables], output_gradients=upstream
            )
            with tf.control_dependencies(own):
                downstream = tf.identity(downstream)
            return (downstream, own) if variables else downstream

        return layer(values, training=True), gradient

    return forward(inputs)


class Activation(Composite):
    """Batch normalization and ReLU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = BatchNormalization()

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns [B, h, w, c] for [B, h, w, c]."""
        return tf.nn.relu(self.normalization(inputs, training=training))
