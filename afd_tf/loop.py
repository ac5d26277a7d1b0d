"""The inner loops: many steps on the device, and accuracy over a whole split."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from afd_tf import data, distill, runtime
from afd_tf.errors import UserError

# Device work between two looks at the clock and at signals, seconds.
_BURST_SECONDS = 2.0
_EVALUATION_BATCH = 256


def training_function(
    method: distill.Method,
    strategy: tf.distribute.Strategy,
    iterator,
    names: list[str],
) -> Callable:
    """Returns a function that takes many steps without coming back to Python.

    Args:
      method: compiled.
      strategy: whose replicas take each step together.
      iterator: over the training batches.
      names: filled with the metrics' names.

    Returns:
      a function of (iterator, steps, sums) → (steps taken, sums, last). `sums` is
      float64, the metrics added up over the steps one by one, so that they do not
      depend on how the steps are divided into calls; begin with 0.0. `last` are the
      last step's metrics. It ends early after a step with one that is not finite.
    """

    def replica_step(batch):
        metrics = method.train_step(batch)
        names[:] = metrics
        return tf.stack(list(metrics.values()))

    @tf.function(autograph=False)
    def train(iterator, steps, sums):
        def step(count, sums, last):
            del last
            values = strategy.run(replica_step, (iterator.get_next(),))
            values = strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
            return count + 1, sums + tf.cast(values, tf.float64), values

        def go_on(count, sums, last):
            del sums
            return (count < steps) & tf.reduce_all(tf.math.is_finite(last))

        unknown = tf.TensorShape(None)
        return tf.while_loop(
            go_on,
            step,
            (tf.constant(0), sums, tf.constant(0.0)),
            shape_invariants=(tf.TensorShape([]), unknown, unknown),
        )

    # One trace, whatever is passed as `sums`.
    return train.get_concrete_function(
        iterator, tf.TensorSpec([], tf.int32), tf.TensorSpec(None, tf.float64)
    )


def evaluation_function(
    method: distill.Method, strategy: tf.distribute.Strategy, dataset: data.Dataset
) -> Callable[[str], dict[str, float]]:
    """Returns a function that measures every peer and the ensemble on a split."""

    @tf.function(autograph=False, reduce_retracing=True)
    def count(iterator, steps):
        def step(number, sums):
            hits = strategy.run(method.count_hits, (iterator.get_next(),))
            return number + 1, sums + strategy.reduce(
                tf.distribute.ReduceOp.SUM, hits, axis=None
            )

        return tf.while_loop(
            lambda number, sums: number < steps,
            step,
            (tf.constant(0), tf.zeros([len(method.judged) + 1], tf.float64)),
        )[1]

    def evaluate(split: str) -> dict[str, float]:
        examples = dataset.info.examples[split]
        batch_size = max(
            min(_EVALUATION_BATCH, examples), strategy.num_replicas_in_sync
        )
        batches = distribute(
            strategy,
            lambda **part: dataset.evaluation_batches(
                split, batch_size=batch_size, **part
            ),
        )
        *right, counted = count(
            iter(batches), tf.constant(-(-examples // batch_size))
        ).numpy()
        # A picture that counted twice, or never, would be somebody's bug.
        assert counted == examples, (counted, examples)
        accuracies = {
            f"{name}/accuracy": float(hits / counted)
            for name, hits in zip(method.judged, right, strict=True)
        }
        accuracies["mean/accuracy"] = float(
            np.mean(
                [accuracies[f"peer_{k}/accuracy"] for k in range(len(method.peers))]
            )
        )
        return accuracies

    return evaluate


def distribute(strategy: tf.distribute.Strategy, make: Callable[..., tf.data.Dataset]):
    """Returns `make(replicas=..., own=...)`, dealt out to the replicas.

    Args:
      strategy: of the run.
      make: returns every batch as an element for each of the replicas `own`, those of
        this process, of all `replicas`; see `afd_tf.data.Dataset.train_batches`.
    """
    if strategy.num_replicas_in_sync == 1:
        return make()

    def of_process(context):
        replicas = context.num_replicas_in_sync
        share = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * share
        return make(replicas=replicas, own=range(first, first + share))

    return strategy.distribute_datasets_from_function(of_process)


def remaining_steps(
    train: Callable,
    iterator,
    names: Sequence[str],
    state: dict,
    *,
    steps_per_epoch: int,
    crew: runtime.Crew,
) -> Iterator[int]:
    """Takes the steps that are left of the current epoch, in bursts of about 2 s.

    A step that `state["skipped"]` names is passed over, with its batch.

    Args:
      train: see `training_function`.
      iterator: over the training batches, at the step of `state`.
      names: of the metrics.
      state: "step", "sums" and "seconds" are brought up to date before each yield.
      steps_per_epoch: where the epoch ends.
      crew: all of it takes bursts of the length that the chief chooses.

    Yields:
      how many steps were taken.

    Raises:
      NotFiniteError: a loss or a gradient is not finite; the state is that before the
        burst, the variables are not.
    """
    burst = 1
    left = steps_per_epoch - state["step"] % steps_per_epoch
    while left:
        ahead = [each for each in state["skipped"] if each >= state["step"]]
        if state["step"] in ahead:
            next(iterator)
            left -= 1
            state["step"] += 1
            continue
        until_skipped = min(ahead, default=float("inf")) - state["step"]
        began = time.time()
        (steps,) = crew.chiefs(min(burst, left, until_skipped))
        taken, sums, last = train(
            iterator,
            tf.constant(int(steps)),
            tf.constant(state["sums"], tf.float64),
        )
        taken = int(taken)
        _refuse_not_finite(names, last.numpy(), state["step"] + taken - 1)
        left -= taken
        state["step"] += taken
        state["sums"] = sums.numpy().tolist()
        seconds = time.time() - began
        state["seconds"] += seconds
        # The first burst of an epoch tells how long a step takes.
        burst = max(1, int(_BURST_SECONDS / (seconds / taken)))
        yield taken


class NotFiniteError(UserError):
    """A loss or a gradient that is not finite.

    Attributes:
      step: of which, counted from 0.
    """

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


def _refuse_not_finite(names: Sequence[str], values: np.ndarray, step: int) -> None:
    wrong = [
        f"{name} is {value}"
        for name, value in zip(names, values, strict=True)
        if not np.isfinite(value)
    ]
    if wrong:
        raise NotFiniteError(
            step,
            f"step {step + 1}: {', '.join(wrong)}. The last good checkpoint is kept. A "
            "smaller --learning_rate or --afd_learning_rate usually helps, or "
            "--on_nan=restore.",
        )
