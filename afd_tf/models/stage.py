"""Layers made of layers, whose activations may be recomputed."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from afd_tf.models.batch_normalization import current_mode, training_mode


class Composite(keras.layers.Layer):
    """A layer made of layers, each of which is built by its own first call.

    Before the first call of a layer without a `build`, Keras calls it symbolically,
    and so the layers in it once more for each level of nesting. Layers made of layers
    derive from this class to avoid that.
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates nothing; its existence keeps Keras from the symbolic call."""


class Stage(Composite):
    """Layers one after the other, without the symbolic calls of `keras.Sequential`.

    Args:
      layers: each is called with the output of the one before it.
      **kwargs: of a Keras layer.
    """

    def __init__(self, layers: Sequence[keras.layers.Layer], **kwargs):
        super().__init__(**kwargs)
        self.layers = list(layers)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the output of the last layer, [B, h', w', c'] for [B, h, w, c]."""
        remat = training and current_mode().remat
        values = inputs
        for layer in self.layers:
            if remat:
                values = _call_without_keeping(layer, values)
            else:
                values = layer(values, training=training)
        return values


def _call_without_keeping(layer: keras.layers.Layer, inputs):
    """Calls a layer in training, and again in the backward pass for its gradient.

    Between the two, only `inputs`, a tensor or a list of some, are kept. Unlike
    `tf.recompute_grad`, the backward pass finishes with a layer before it begins with
    the one below: otherwise the gradients of weights, which nothing waits for, could be
    left until the end, and would keep everything that was computed again.
    """
    local = current_mode().local
    # A list of outputs, unlike a tensor, stays one.
    structure = []

    @tf.custom_gradient
    def forward(*flat):
        def gradient(*upstream, variables=()):
            # A zero that neither XLA nor TensorFlow recognizes as one ties the second
            # call to the gradient, so that it cannot run earlier.
            some = tf.abs(tf.reshape(upstream[0], [-1])[:1])
            zero = tf.reduce_sum(tf.minimum(some, 0))
            again = [values + tf.cast(zero, values.dtype) for values in flat]
            with (
                tf.GradientTape() as tape,
                # The first forward has counted the batch.
                training_mode(frozen=True, local=local),
            ):
                tape.watch(again)
                outputs = layer(tf.nest.pack_sequence_as(inputs, again), training=True)
            downstream = tape.gradient(
                tf.nest.flatten(outputs),
                [*again, *variables],
                output_gradients=list(upstream),
            )
            downstream, own = downstream[: len(again)], downstream[len(again) :]
            with tf.control_dependencies(own):
                downstream = [tf.identity(each) for each in downstream]
            return (downstream, own) if variables else downstream

        outputs = layer(tf.nest.pack_sequence_as(inputs, flat), training=True)
        structure.append(outputs)
        return tf.nest.flatten(outputs), gradient

    flat = forward(*tf.nest.flatten(inputs))
    return tf.nest.pack_sequence_as(structure[0], flat)
