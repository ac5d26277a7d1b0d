"""The processes that train together."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

# TensorFlow's errors in the other workers when one is lost.
LOST_WORKER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


class Workers:
    """The processes of a run, which take every step together; mostly there is one.

    Every method has to be called by all of them.

    Attributes:
      count: how many there are.
      is_chief: whether this one writes the run directory.

    Args:
      strategy: of the run.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.count, self.is_chief = 1, True
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            tasks = resolver.cluster_spec().as_dict()
            self.count = sum(map(len, tasks.values()))
            first = "chief" if "chief" in tasks else "worker"
            self.is_chief = (resolver.task_type, resolver.task_id) == (first, 0)
        self._sum = self._summation(strategy) if self.count > 1 else np.asarray

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Returns the sum of each value over all workers."""
        return [float(value) for value in self._sum(values)]

    def broadcast_from_chief(self, *values: float) -> list[float]:
        """Returns the chief's values on all workers."""
        return self.all_reduce_sum(*(value if self.is_chief else 0 for value in values))

    def barrier(self) -> None:
        """Waits until all workers have called it."""
        self.all_reduce_sum(0)

    def _summation(self, strategy) -> Callable[[Sequence[float]], np.ndarray]:
        local = strategy.num_replicas_in_sync // self.count

        def of_replica(values):
            context = tf.distribute.get_replica_context()
            # An argument is on no device yet, and is reduced to where it is.
            own = tf.identity(values)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

        @tf.function(autograph=False, reduce_retracing=True)
        def over_all(values):
            per_replica = strategy.run(of_replica, (values,))
            return strategy.experimental_local_results(per_replica)[0]

        return lambda values: over_all(tf.constant(values, tf.float64)).numpy() / local
