"""The block of ShuffleNetV2."""

import numpy as np

from afd_tf.models.shufflenet import ShuffleBlock


def test_shuffled_channels_come_from_both_halves_alternately():
    block = ShuffleBlock(48, strides=1)
    inputs = np.random.default_rng(0).normal(size=(2, 4, 4, 48)).astype(np.float32)
    output = block(inputs).numpy()
    np.testing.assert_array_equal(output[..., 0::2], inputs[..., :24])
    np.testing.assert_array_equal(output[..., 1::2], block.residual(inputs[..., 24:]))
