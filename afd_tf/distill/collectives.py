"""Sums and means over the replicas that take a step together."""

from collections.abc import Sequence

import keras
import tensorflow as tf


def replicas() -> int:
    """Returns the number of replicas that take this step together."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(values):
    """Returns tensors of this replica, nested in any way, summed over all of them."""
    return tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, values
    )


def average_over_replicas(variables: Sequence[keras.Variable]) -> None:
    """Assigns to every replica's copy of each vector the mean of all copies.

    Args:
      variables: of one axis each, e.g. moving statistics.
    """
    sizes = [variable.shape[0] for variable in variables]
    values = tf.concat([tf.convert_to_tensor(each) for each in variables], axis=0)
    means = tf.split(sum_over_replicas(values) / replicas(), sizes)
    for variable, mean in zip(variables, means, strict=True):
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=mean)
