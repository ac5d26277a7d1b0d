import numpy as np
import pytest
import tensorflow as tf

from afd_tf.data.digits_source import DigitsSource


@pytest.mark.parametrize(("size", "tolerance"), [(16, 0), (12, 1), (5, 1)])
def test_digits_are_resized_as_tensorflow_does_it(size, tolerance):
    images, labels = DigitsSource().read("test")
    found, found_labels = DigitsSource(image_size=size).read("test")
    np.testing.assert_array_equal(found_labels, labels)
    expected = tf.image.resize(images, (size, size), antialias=True)
    expected = np.rint(expected.numpy())
    assert found.dtype == np.uint8 and found.shape == (360, size, size, 1)
    # Halves, which float32 rounds either way, differ by one.
    different = np.abs(found - expected)
    assert different.max() <= tolerance
    assert np.mean(different > 0) < 0.05
