"""Feature maps of several networks brought to one size."""

import tensorflow as tf

from afd_tf.models.layers import adaptive_average_pooling


def pool_to_smallest(*maps: tf.Tensor) -> list[tf.Tensor]:
    """Averages maps [B, h, w, c] of several networks down to the smallest h and w.

    This project's rule for maps of different sizes; the papers have none.
    """
    height = min(each.shape[1] for each in maps)
    width = min(each.shape[2] for each in maps)
    return [adaptive_average_pooling(each, (height, width)) for each in maps]
