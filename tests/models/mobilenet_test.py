"""The block of MobileNetV2."""

import numpy as np

from afd_tf.models.mobilenet import InvertedResidual, MobileNetV2


def test_inverted_residuals_add_their_input_where_the_shape_stays():
    peer = MobileNetV2(50, num_classes=5, mean=(0.0,) * 3, variance=(1.0,) * 3)
    shortcuts = [
        [block.shortcut for block in stage.layers]
        for name, stage in peer.body.items()
        if name.startswith("stage_")
    ]
    assert shortcuts == [
        [False, False, True],
        [False, True, True],
        [False, True, True, True, False, True, True],
        [False, True, True, False],
    ]
    block = InvertedResidual(12, 72, strides=1, shortcut=True)
    inputs = np.random.default_rng(0).normal(size=(2, 4, 4, 12)).astype(np.float32)
    np.testing.assert_array_equal(block(inputs), inputs + block.residual(inputs))
