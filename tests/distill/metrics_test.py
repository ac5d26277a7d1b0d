"""Sums over the classes in TensorFlow."""

import numpy as np
import tensorflow as tf

from afd_tf.distill.metrics import sums_by_class


def test_sums_by_class_by_hand():
    values = tf.constant([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    labels = tf.constant([2, 0, 2, 1])
    found = sums_by_class(values, labels, 4)
    assert found.dtype == tf.float64
    np.testing.assert_array_equal(found, [[0, 1, 2, 0], [1, 0, 2, 0]])
    # The part of a replica that has no images.
    nothing = sums_by_class(tf.zeros([2, 0]), tf.zeros([0], tf.int32), 4)
    np.testing.assert_array_equal(nothing, np.zeros([2, 4]))
