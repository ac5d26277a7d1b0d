"""The inner loops: many steps on the device, and accuracy over a whole split."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import flags

from afd_tf.data import Dataset
from afd_tf.distill.balanced_accuracy import balanced_accuracy
from afd_tf.distill.method import Method
from afd_tf.training.run_state import NotFiniteError, RunState
from afd_tf.training.workers import Workers

_EPOCHS = flags.DEFINE_integer(
    "epochs", 300, "Number of epochs to train for.", lower_bound=1
)

# Device work between two looks at the clock and at signals, seconds.
_CHUNK_SECONDS = 2.0


def epochs_from_flags() -> int:
    """Returns --epochs."""
    return _EPOCHS.value


def training_function(
    method: Method, strategy: tf.distribute.Strategy, iterator
) -> tuple[Callable, list[str]]:
    """Returns a function that takes many steps in one call, and its metrics' names.

    The steps are those of the method's present phase (`Method.warming_up`).

    Args:
      method: compiled.
      strategy: whose replicas take each step together.
      iterator: over the training batches.

    Returns:
      a function of (iterator, steps, sums) → (steps taken, sums, last), and the names
      of the metrics. `sums` is float64, the metrics added up over the steps one by
      one, so that they do not depend on how the steps are divided into calls; begin
      with 0.0. `last` are the last step's metrics. The function returns early after a
      step with a metric that is not finite.
    """
    names: list[str] = []

    def replica_step(batch):
        metrics = method.take_step(batch)
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

    # One trace, whatever is passed as `sums`; it fills the names.
    function = train.get_concrete_function(
        iterator, tf.TensorSpec([], tf.int32), tf.TensorSpec(None, tf.float64)
    )
    return function, names


class TrainingLoop:
    """Takes the steps of a run in chunks of about 2 seconds.

    Attributes:
      steps_per_epoch: training steps of an epoch.
      epochs: of the whole run, those of its warm-up included.
      batch_size: images of a step, over all replicas.
      names: of the metrics of the present phase, in the order of `RunState.sums`.

    Args:
      method: compiled.
      strategy: of the run.
      workers: all of them take chunks of the length that the chief chooses.
      dataset: to train on.
      batch_size: images of a step, over all replicas.
      seed: of the order of the images and of augmentation.
    """

    def __init__(
        self,
        method: Method,
        strategy: tf.distribute.Strategy,
        workers: Workers,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int,
    ):
        self._method = method
        self._strategy = strategy
        self._workers = workers
        self._dataset = dataset
        self.batch_size = batch_size
        self._seed = seed
        self.steps_per_epoch = method.steps_per_epoch
        self.epochs = method.warmup_epochs + method.epochs
        self.names: list[str] = []
        self._function = None
        self._iterator = None

    def rewind(self, state: RunState) -> None:
        """Lets the batches begin at the step that a state has reached."""
        self._iterator = iter(
            distribute(
                self._strategy,
                lambda **part: self._dataset.train_batches(
                    batch_size=self.batch_size,
                    seed=self._seed,
                    epochs=self.epochs,
                    first_step=state.step,
                    min_images_per_replica=self._method.min_images_per_replica,
                    **part,
                ),
            )
        )

    def rest_of_epoch(self, state: RunState) -> Iterator[int]:
        """Takes the steps that are left of the current epoch, chunk by chunk.

        A step that `state.skipped` names is skipped, with its batch.

        Args:
          state: its step, sums and seconds are brought up to date before each yield.

        Yields:
          the number of steps taken.

        Raises:
          NotFiniteError: a loss or a gradient is not finite; the state is that before
            the chunk, the variables are not.
        """
        self._enter_phase(state)
        chunk = 1
        left = self.steps_per_epoch - state.step % self.steps_per_epoch
        while left:
            ahead = [each for each in state.skipped if each >= state.step]
            if state.step in ahead:
                next(self._iterator)
                left -= 1
                state.step += 1
                continue
            until_skipped = min(ahead, default=float("inf")) - state.step
            began = time.time()
            (steps,) = self._workers.broadcast_from_chief(
                min(chunk, left, until_skipped)
            )
            taken, sums, last = self._function(
                self._iterator,
                tf.constant(int(steps)),
                tf.constant(state.sums, tf.float64),
            )
            taken = int(taken)
            _refuse_not_finite(self.names, last.numpy(), state.step + taken - 1)
            left -= taken
            state.step += taken
            state.sums = sums.numpy().tolist()
            seconds = time.time() - began
            state.seconds += seconds
            # The first chunk of an epoch tells how long a step takes.
            chunk = max(1, int(_CHUNK_SECONDS / (seconds / taken)))
            yield taken

    def _enter_phase(self, state: RunState) -> None:
        """Traces the step of the warm-up or of the run proper when it begins."""
        warming_up = state.step // self.steps_per_epoch < self._method.warmup_epochs
        if self._function is None or warming_up != self._method.warming_up:
            self._method.warming_up = warming_up
            self._function, self.names = training_function(
                self._method, self._strategy, self._iterator
            )


def evaluation_function(
    method: Method, strategy: tf.distribute.Strategy, dataset: Dataset
) -> Callable[[str], dict[str, float]]:
    """Returns a function that measures every peer and the ensemble on a split.

    Its result has "<name>/accuracy" and "<name>/balanced_accuracy" of each of
    `evaluated_names`, and of "mean", the mean of the peers.
    """
    shape = [len(method.evaluated_names) + 1, dataset.info.num_classes]

    @tf.function(autograph=False, reduce_retracing=True)
    def count(iterator, steps):
        def step(number, sums):
            correct = strategy.run(method.count_correct, (iterator.get_next(),))
            return number + 1, sums + strategy.reduce(
                tf.distribute.ReduceOp.SUM, correct, axis=None
            )

        return tf.while_loop(
            lambda number, sums: number < steps,
            step,
            (tf.constant(0), tf.zeros(shape, tf.float64)),
        )[1]

    def evaluate(split: str) -> dict[str, float]:
        examples = dataset.info.examples[split]
        batch_size = max(
            min(dataset.info.evaluation_batch, examples),
            strategy.num_replicas_in_sync,
        )
        batches = distribute(
            strategy,
            lambda **part: dataset.evaluation_batches(
                split, batch_size=batch_size, **part
            ),
        )
        steps = tf.constant(-(-examples // batch_size))
        with method.evaluated_weights():
            *correct, totals = count(iter(batches), steps).numpy()
        counted = np.sum(totals)
        # An image that counted twice, or never, would be a bug.
        assert counted == examples, (counted, examples)
        found = {
            "accuracy": [float(np.sum(each) / counted) for each in correct],
            "balanced_accuracy": [balanced_accuracy(each, totals) for each in correct],
        }
        accuracies = {}
        for measure, values in found.items():
            for name, value in zip(method.evaluated_names, values, strict=True):
                accuracies[f"{name}/{measure}"] = value
            of_peers = values[: len(method.peers)]
            accuracies[f"mean/{measure}"] = float(np.mean(of_peers))
        return accuracies

    return evaluate


def distribute(strategy: tf.distribute.Strategy, make: Callable[..., tf.data.Dataset]):
    """Returns the batches of `make(replicas=..., own=...)`, split between replicas.

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
