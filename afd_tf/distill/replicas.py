"""How a step is divided: over replicas, and on each into parts."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf


def replicas() -> int:
    """Returns how many take this step together."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(values):
    """Returns tensors of this replica, added up over all of them."""
    return tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, values
    )


def average_over_replicas(variables: Sequence[keras.Variable]) -> None:
    """Gives every replica's copy of vectors the mean of them all."""
    sizes = [variable.shape[0] for variable in variables]
    values = tf.concat([tf.convert_to_tensor(each) for each in variables], axis=0)
    means = tf.split(sum_over_replicas(values) / replicas(), sizes)
    for variable, mean in zip(variables, means, strict=True):
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=mean)


def in_parts(work: Callable, parts: int, images: tf.Tensor, labels: tf.Tensor):
    """Returns what `work(images, labels)` does, added up over parts of a batch.

    They are taken one after the other: side by side they would need the memory of all.

    Args:
      work: returns tensors, nested in any way.
      parts: how many. One replica takes fewer where it has fewer pictures; several, who
        have to take equally many, need that many pictures each.
      images: uint8 [B, h, w, c].
      labels: int32 [B].
    """
    if parts == 1:
        return work(images, labels)
    size = tf.shape(labels)[0]
    together = replicas() > 1
    # A part without pictures has no statistics.
    count = parts if together else tf.minimum(parts, size)

    def part(number):
        start, stop = number * size // count, (number + 1) * size // count
        return work(images[start:stop], labels[start:stop])

    def add(total, number):
        return tf.nest.map_structure(tf.add, total, part(number))

    if together:
        # TensorFlow cannot add up over replicas inside a loop.
        total = part(0)
        for number in range(1, parts):
            with tf.control_dependencies(tf.nest.flatten(total)):
                total = add(total, number)
        return total
    return tf.while_loop(
        lambda number, total: number < count,
        lambda number, total: (number + 1, add(total, number)),
        (tf.constant(1), part(0)),
        parallel_iterations=1,
    )[1]
