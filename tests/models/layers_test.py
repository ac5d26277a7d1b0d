"""Pixel normalization against NumPy."""

import numpy as np
import tensorflow as tf

from afd_tf.models.layers import PixelNormalization


def test_pixel_normalization():
    layer = PixelNormalization((10.0, 20.0), (4.0, 0.0))
    pixels = np.array([[[[0, 20], [255, 21]]]], np.uint8)
    # A channel of variance 0 is only shifted.
    expected = [[[[-5.0, 0.0], [122.5, 1.0]]]]
    np.testing.assert_allclose(layer(tf.constant(pixels)), expected, rtol=1e-6)
