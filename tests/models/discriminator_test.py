"""Discriminator and transfer layer for any map and any pair of widths."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.discriminator import Discriminator, TransferLayer


@pytest.mark.parametrize("shape", [(2, 2, 8), (3, 2, 4), (7, 7, 16), (8, 8, 64)])
def test_one_score_per_map(shape):
    # With most weights; with some, a score is so near to 1 that float32 rounds it.
    keras.utils.set_random_seed(0)
    discriminator = Discriminator(shape)
    maps = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    scores = discriminator(maps, training=True).numpy()
    assert scores.shape == (6,)
    assert scores.dtype == np.float32
    assert 0 < scores.min() < scores.max() < 1


def test_layers_by_hand():
    discriminator = Discriminator((8, 8, 64))
    discriminator(tf.zeros([1, 8, 8, 64]))
    # 3x3 convolution, scale and shift, 4x4 convolution with bias: about 38,000.
    assert discriminator.count_params() - 2 * 64 == 9 * 64 * 64 + 2 * 64 + 16 * 64 + 1
    maps = np.random.default_rng(0).normal(size=(3, 8, 8, 64)).astype(np.float32)
    hidden = discriminator.hidden[0].convolution(maps).numpy()
    normal = (hidden - hidden.mean((0, 1, 2))) / np.sqrt(hidden.var((0, 1, 2)) + 1e-5)
    active = np.where(normal > 0, normal, 0.2 * normal)
    kernel, bias = (v.numpy() for v in discriminator.score.weights)
    logits = np.tensordot(active, kernel[..., 0], 3) + bias
    np.testing.assert_allclose(
        discriminator(maps, training=True), 1 / (1 + np.exp(-logits)), rtol=1e-3
    )


def test_a_large_one_has_two_hidden_maps():
    discriminator = Discriminator((8, 8, 64), "large")
    assert discriminator(tf.zeros([3, 8, 8, 64])).shape == (3,)
    # 3x3 to twice the channels, to four times as many, a 2x2 convolution with bias.
    trainable = 9 * 64 * 128 + 2 * 128 + 9 * 128 * 256 + 2 * 256 + 4 * 256 + 1
    moving = 2 * 128 + 2 * 256
    assert discriminator.count_params() == trainable + moving


def test_too_small_a_map_is_refused():
    with pytest.raises(UserError, match="1x4 are too small"):
        Discriminator((1, 4, 8))


def test_an_unknown_size_is_refused():
    with pytest.raises(UserError, match=r"'huge'.*small, large"):
        Discriminator((8, 8, 4), "huge")


def test_transfer_layer_by_hand():
    layer = TransferLayer(5)
    maps = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
    output = layer(maps, training=True)
    hidden = maps @ layer.convolution.kernel.numpy()[0, 0]
    normal = (hidden - hidden.mean((0, 1, 2))) / np.sqrt(hidden.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(output, np.maximum(normal, 0), rtol=1e-3, atol=1e-5)
    assert output.shape == (4, 2, 2, 5)
