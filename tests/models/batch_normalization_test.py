"""Batch normalization against NumPy."""

import numpy as np
import pytest

from afd_tf.models.batch_normalization import BatchNormalization, training_mode

VALUES = np.random.default_rng(0).normal(3.0, 2.0, (6, 4, 5, 3)).astype(np.float32)


def test_batch_normalization_trains_on_batch_statistics():
    layer = BatchNormalization()
    output = layer(VALUES, training=True)
    mean, variance = VALUES.mean((0, 1, 2)), VALUES.var((0, 1, 2))
    np.testing.assert_allclose(
        output, (VALUES - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5
    )
    # Momentum 0.9; the variance that is kept is the unbiased one.
    count = VALUES[..., 0].size
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance.numpy(),
        0.9 + 0.1 * variance * count / (count - 1),
        rtol=1e-5,
    )


def test_batch_normalization_infers_with_moving_statistics():
    layer = BatchNormalization()
    layer.build(VALUES.shape)
    weights = [np.array(w, np.float32) for w in ([2, 3, 4], [1, 0, -1], [3, 2, 1])]
    layer.gamma.assign(weights[0])
    layer.beta.assign(weights[1])
    layer.moving_mean.assign(weights[2])
    layer.moving_variance.assign([4.0, 1.0, 0.25])
    expected = (VALUES - weights[2]) / np.sqrt(np.array([4.0, 1.0, 0.25]) + 1e-5)
    np.testing.assert_allclose(
        layer(VALUES), expected * weights[0] + weights[1], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(layer.moving_mean.numpy(), weights[2])


def test_frozen_statistics_do_not_move():
    layer = BatchNormalization()
    layer.build(VALUES.shape)
    with training_mode(frozen=True):
        layer(VALUES, training=True)
    np.testing.assert_array_equal(layer.moving_mean.numpy(), np.zeros(3))
    layer(VALUES, training=True)
    assert np.abs(layer.moving_mean.numpy()).min() > 0


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_statistics_stay_float32(dtype):
    layer = BatchNormalization(dtype=dtype)
    layer(VALUES, training=True)
    assert {v.dtype for v in layer.variables} == {"float32"}
