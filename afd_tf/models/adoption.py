"""Layers of foreign Keras models, made to compute as ours do.

Everything here changes layers in place, at any depth: a layer that a package defines
may have its batch normalization inside, where nothing can be put in its place.
"""

import keras
import numpy as np

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
    usual 0.99 lags behind the weights of a short training. Random layers do nothing.
    All layers compute in the precision of the moment, and are trainable.

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
        elif is_random(layer):
            layer.call = _in_inference(layer.call)
            # Nothing draws from them, and they are no weights.
            layer._tracker.unlock()
            layer._seed_generators.clear()
            layer._tracker.lock()


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
