"""Foreign layers in place: batch normalization as ours, and no random numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from afd_tf.base.errors import UserError
from afd_tf.models.adoption import adopt
from afd_tf.models.batch_normalization import (
    BatchNormalization,
    keep_statistics,
    training_mode,
)
from tests import tiny

MAPS = np.random.default_rng(0).normal(3, 2, (4, 3, 3, 2)).astype(np.float32)


class Inside(layers.Layer):
    """A layer of a package, with another one inside."""

    def __init__(self):
        super().__init__()
        self.normalization = layers.BatchNormalization(epsilon=0.01)
        self.dropout = layers.Dropout(0.9, seed=0)

    def call(self, inputs, training=False):
        values = self.normalization(inputs, training=training)
        return self.dropout(values, training=training)


def built(layer, shape=(3, 3, 2)):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    for variable in model.weights:
        if variable.name != "moving_variance" and "seed" not in variable.name:
            variable.assign(variable + np.array([0.5, -0.25]))
    return model


def by_hand(values, model, epsilon, axes):
    """Output in training, and unbiased variance."""
    weights = {variable.name: variable.numpy() for variable in model.weights}
    mean, variance = values.mean(axes), values.var(axes)
    output = (values - mean) / np.sqrt(variance + epsilon)
    count = values[..., 0].size
    return (
        output * weights.get("gamma", 1) + weights.get("beta", 0),
        mean,
        variance * count / (count - 1),
    )


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (layers.BatchNormalization(epsilon=0.01), MAPS),
        (layers.BatchNormalization(epsilon=0.01, scale=False), MAPS),
        (layers.BatchNormalization(epsilon=0.01, center=False), MAPS),
        (layers.BatchNormalization(epsilon=0.01), MAPS[:, 0, 0]),
        (Inside(), MAPS),
    ],
    ids=["maps", "without scale", "without shift", "vectors", "inside"],
)
def test_batch_normalization_is_ours(layer, values):
    model = built(layer, values.shape[1:])
    before = {v.name: v.numpy() for v in model.weights}
    inference = model(values, training=False).numpy()
    trainable = len(model.trainable_variables)
    adopt(model)
    # The weights are the same ones, and no others.
    assert len(model.trainable_variables) == trainable
    np.testing.assert_allclose(model(values, training=False), inference, rtol=1e-4)
    axes = tuple(range(values.ndim - 1))
    expected, mean, variance = by_hand(values, model, 0.01, axes)
    np.testing.assert_allclose(
        model(values, training=True), expected, rtol=1e-4, atol=1e-5
    )
    after = {v.name: v.numpy() for v in model.weights}
    for name, moved in (("moving_mean", mean), ("moving_variance", variance)):
        np.testing.assert_allclose(
            after[name], 0.9 * before[name] + 0.1 * moved, rtol=1e-5
        )


def test_modes_and_kept_statistics_reach_it():
    model = built(Inside())
    adopt(model)
    adopt(model)  # Twice is once.
    before = [v.numpy() for v in model.weights]
    with training_mode(frozen=True):
        model(MAPS, training=True)
    keep_statistics(model, True)
    np.testing.assert_allclose(
        model(MAPS, training=True), model(MAPS, training=False), rtol=1e-6
    )
    for variable, kept in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable, kept)
    keep_statistics(model, False)
    model(MAPS, training=True)
    assert sum(isinstance(x, BatchNormalization) for x in model._flatten_layers()) == 1
    moved = [np.any(v != k) for v, k in zip(model.weights, before, strict=True)]
    assert sum(moved) == 2


def test_in_half_precision_statistics_stay_in_float32():
    model = built(layers.BatchNormalization())
    with tiny.precision("mixed_bfloat16"):
        adopt(model)
        output = model.layers[-1](tf.cast(MAPS, tf.bfloat16), training=True)
    assert output.dtype == tf.bfloat16
    assert {v.dtype for v in model.weights} == {"float32"}
    mean = model.layers[-1].moving_mean.numpy()
    assert np.any(mean != tf.cast(tf.cast(mean, tf.bfloat16), tf.float32).numpy())


def test_another_axis_is_refused():
    with pytest.raises(UserError, match="along axis 1: a peer needs"):
        adopt(built(layers.BatchNormalization(axis=1), (2, 2, 2)))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "settings",
    [
        {"filters": 2, "strides": 2, "padding": "same"},
        {"filters": 6, "dilation_rate": 2, "padding": "same"},
        {"filters": 4, "activation": "relu"},
    ],
)
def test_groups_of_one_channel_are_depthwise(settings, precision):
    images = np.random.default_rng(0).normal(size=(2, 7, 6, 2)).astype(np.float32)
    layer = layers.Conv2D(kernel_size=3, groups=2, **settings)
    inputs = keras.Input((7, 6, 2))
    model = keras.Model(inputs, layer(inputs))
    expected = model(images)
    with tiny.precision(precision):
        adopt(model)
    function = tf.function(layer).get_concrete_function(images)
    kinds = {op.type for op in function.graph.get_operations()}
    assert "DepthwiseConv2dNative" in kinds
    assert not [kind for kind in kinds if "PartitionedCall" in kind]
    tolerance = 1e-6 if precision == "float32" else 0.05
    np.testing.assert_allclose(
        tf.cast(layer(images), tf.float32), expected, atol=tolerance
    )


def test_groups_of_several_channels_stay_as_they_are():
    images = np.random.default_rng(0).normal(size=(2, 7, 6, 4)).astype(np.float32)
    layer = layers.Conv2D(6, 3, groups=2)
    inputs = keras.Input((7, 6, 4))
    model = keras.Model(inputs, layer(inputs))
    expected = model(images)
    adopt(model)
    np.testing.assert_array_equal(model(images), expected)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("settings", [{}, {"use_bias": False, "activation": "relu"}])
@pytest.mark.parametrize(
    ("shape", "kind"),
    [((3, 5, 2), "Conv2D"), ((2,), "MatMul")],
    ids=["maps", "vectors"],
)
def test_dense_layers_of_maps_are_convolutions(shape, kind, settings, precision):
    values = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    layer = layers.Dense(3, **settings)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    expected = model(values)
    with tiny.precision(precision):
        adopt(model)
        # As when a model becomes a peer twice.
        adopt(model)
    function = tf.function(layer).get_concrete_function(values)
    assert kind in {op.type for op in function.graph.get_operations()}
    outputs = layer(values)
    assert outputs.dtype == ("float32" if precision == "float32" else "bfloat16")
    tolerance = 1e-6 if precision == "float32" else 0.05
    np.testing.assert_allclose(tf.cast(outputs, "float32"), expected, atol=tolerance)
