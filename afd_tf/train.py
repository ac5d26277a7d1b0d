"""Trains peers together: flags → a run directory with all that came out.

    python -m afd_tf.train --flagfile=flags/digits.cfg --run_dir=runs/digits
    python -m afd_tf.train --flagfile=flags/cifar.cfg --data_dir=DIR

The same command continues a run that was stopped at any moment. SIGTERM and Ctrl-C
save first. The last line on stdout is `summary.json` as one line.
"""

import json
import re
import signal
import time
from collections.abc import Callable, Mapping

from afd_tf.command_line import prepare_environment, run

_STARTED = time.time()
prepare_environment(training=True)

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import flags  # noqa: E402

from afd_tf import artifact, data, distill, models, runner, runtime  # noqa: E402
from afd_tf.checkpoint import Checkpoints  # noqa: E402
from afd_tf.errors import UserError  # noqa: E402
from afd_tf.journal import (  # noqa: E402
    Journal,
    progress,
    resolved_flags,
    run_dir_from_flags,
    say,
)

_EPOCHS = flags.DEFINE_integer("epochs", 300, "Length of the run.", lower_bound=1)
_SAVE_MINUTES = flags.DEFINE_float(
    "save_minutes",
    10.0,
    "A checkpoint is written after each epoch, and within one after this time.",
    lower_bound=0,
)

# Device work between two looks at the clock and at signals, seconds.
_BURST_SECONDS = 2.0
_EVALUATION_BATCH = 256


class StopSignal:
    """Notes SIGTERM and Ctrl-C; a second Ctrl-C is Python's own."""

    def __init__(self):
        self.received: int | None = None
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number, frame):
        if self.received is None:
            say("stopping: saving a checkpoint first.")
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
        def step(number):
            strategy.run(method.test_step, (iterator.get_next(),))
            return (number + 1,)

        return tf.while_loop(lambda number: number < steps, step, (tf.constant(0),))

    def evaluate(split: str) -> dict[str, float]:
        examples = dataset.info.examples[split]
        batch_size = min(_EVALUATION_BATCH, examples)
        batches = distribute(
            strategy,
            lambda replicas: dataset.evaluation_batches(
                split, batch_size=batch_size, replicas=replicas
            ),
        )
        for metric in method.accuracies.values():
            metric.reset_state()
        count(iter(batches), tf.constant(-(-examples // batch_size)))
        accuracies = {
            name: float(metric.result().numpy())
            for name, metric in method.accuracies.items()
        }
        accuracies["mean/accuracy"] = float(
            np.mean(
                [accuracies[f"peer_{k}/accuracy"] for k in range(len(method.peers))]
            )
        )
        return accuracies

    return evaluate


def distribute(
    strategy: tf.distribute.Strategy, make: Callable[[int], tf.data.Dataset]
):
    """Returns `make(replicas)`, dealt out to the replicas of the strategy."""
    if strategy.num_replicas_in_sync == 1:
        return make(1)
    return strategy.distribute_datasets_from_function(
        lambda context: make(context.num_replicas_in_sync)
    )


def main(argv: list[str]) -> int | None:
    """Runs the training that the command line describes."""
    if len(argv) > 1:
        raise UserError(
            f"{argv[1]!r} is no flag: flags begin with two dashes, e.g. --epochs=10."
        )
    imported = time.time()
    strategy = runtime.strategy_from_flags()
    batch_size = runtime.batch_size_from_flags(strategy)
    epochs = _EPOCHS.value
    seed = runtime.seed_from_flags()

    run_dir = run_dir_from_flags(default_run_name())
    journal = Journal(run_dir, resolved_flags())
    dataset = data.from_flags(expected=journal.info)
    loaded = time.time()

    steps_per_epoch = dataset.steps_per_epoch(batch_size)
    with strategy.scope():
        peers = models.peers_from_flags(dataset.info)
        # A wrong --peer shows now, not at the export after the training.
        runner.chosen_peer_from_flags(peers)
        method = distill.method_from_flags(peers)
        method.compile(epochs=epochs, steps_per_epoch=steps_per_epoch)
    checkpoints = Checkpoints(run_dir, method)
    state = checkpoints.restore() or {
        "step": 0,
        "sums": 0.0,
        "seconds": 0.0,
        "best_validation_accuracy": None,
    }
    journal.begin(dataset.info)
    journal.forget_after(state["step"] // steps_per_epoch)
    describe(method, dataset, strategy, state, run_dir)
    built = time.time()

    iterator = iter(
        distribute(
            strategy,
            lambda replicas: dataset.train_batches(
                batch_size=batch_size,
                seed=seed,
                epochs=epochs,
                first_step=state["step"],
                replicas=replicas,
            ),
        )
    )
    names: list[str] = []
    train = training_function(method, strategy, iterator, names)
    evaluate = evaluation_function(method, strategy, dataset)
    stop = StopSignal()
    accuracies: dict[str, float] = {}
    burst = 1
    while state["step"] < epochs * steps_per_epoch:
        epoch, first = divmod(state["step"], steps_per_epoch)
        sums = np.asarray(state["sums"], np.float64)
        saved = time.time()
        with progress(
            f"epoch {epoch + 1}/{epochs}",
            dataset.info.examples["train"],
            first * batch_size,
        ) as bar:
            while first < steps_per_epoch and stop.received is None:
                began = time.time()
                steps = min(burst, steps_per_epoch - first)
                taken, sums, last = train(
                    iterator, tf.constant(steps), tf.constant(sums)
                )
                taken, sums, last = int(taken), sums.numpy(), last.numpy()
                refuse_not_finite(
                    names, last, state["step"] + taken, epoch + 1, run_dir
                )
                first += taken
                if built:
                    announce_first_step(imported, loaded, built)
                    built = None
                else:
                    per_step = (time.time() - began) / taken
                    burst = max(1, int(_BURST_SECONDS / per_step))
                state.update(
                    step=epoch * steps_per_epoch + first,
                    sums=sums.tolist(),
                    seconds=state["seconds"] + time.time() - began,
                )
                bar.update(min(taken * batch_size, bar.total - bar.n))
                # Not at the end: that checkpoint follows the epoch's line of metrics.
                unfinished = first < steps_per_epoch
                if unfinished and time.time() - saved > 60 * _SAVE_MINUTES.value:
                    checkpoints.save(state)
                    saved = time.time()
        if first < steps_per_epoch:
            return stop_early(checkpoints.save(state), stop.received)

        accuracies = evaluate("test")
        metrics = {"epoch": epoch + 1, "step": state["step"]}
        metrics |= {
            f"train/{name}": value / steps_per_epoch
            for name, value in zip(names, sums.tolist(), strict=True)
        }
        metrics |= {f"test/{name}": value for name, value in accuracies.items()}
        state["sums"] = 0.0
        if dataset.info.examples["validation"]:
            validation = evaluate("validation")
            metrics |= {f"validation/{n}": value for n, value in validation.items()}
            best = state["best_validation_accuracy"]
            if best is None or validation["mean/accuracy"] > best["mean/accuracy"]:
                state["best_validation_accuracy"] = {**validation, "epoch": epoch + 1}
                checkpoints.save(state, best=True)
        journal.log_epoch(metrics)
        checkpoints.save(state)
        report_epoch(metrics, epochs, peers)
        if stop.received is not None and epoch + 1 < epochs:
            return stop_early(run_dir, stop.received)

    summary = summarize(method, dataset, state, accuracies or evaluate("test"))
    journal.write_summary(summary)
    if artifact.export_wanted():
        summary["exported"] = artifact.export_from_flags(run_dir, dataset)
        journal.write_summary(summary)
    print(json.dumps(summary))
    return None


def default_run_name() -> str:
    """Returns the name of a run directory from the flags."""
    values = resolved_flags()
    name = "_".join(values[flag] for flag in ("dataset", "method", "peers", "seed"))
    return re.sub(r"[^\w.]+", "-", name)


def describe(method, dataset, strategy, state, run_dir) -> None:
    """Says what is about to run."""
    info = dataset.info
    shape = "x".join(map(str, info.image_shape))
    say(
        f"{info.name}: {info.examples['train']:,} training and "
        f"{info.examples['test']:,} test pictures of {shape}, {info.num_classes} "
        f"classes, augmentation {info.augment}."
    )
    peers = ", ".join(f"{peer.name} ({peer.parameters:,})" for peer in method.peers)
    say(
        f"{type(method).__name__}: {peers} on "
        f"{strategy.num_replicas_in_sync} replica(s)."
    )
    if state["step"]:
        say(f"continuing {run_dir} after step {state['step']}.")


def announce_first_step(imported: float, loaded: float, built: float) -> None:
    """Says how long a user waited for the first step, and for what."""
    now = time.time()
    say(
        f"first step finished {now - _STARTED:.1f} s after the command: imports "
        f"{imported - _STARTED:.1f}, data {loaded - imported:.1f}, networks "
        f"{built - loaded:.1f}, tracing and step {now - built:.1f}."
    )


def refuse_not_finite(
    names: list[str], values: np.ndarray, step: int, epoch: int, run_dir
) -> None:
    """Stops the run when a loss or a gradient is not a finite number.

    Raises:
      UserError: naming the step and the objectives.
    """
    wrong = [
        f"{name} is {value}"
        for name, value in zip(names, values, strict=True)
        if not np.isfinite(value)
    ]
    if wrong:
        raise UserError(
            f"step {step} (epoch {epoch}): {', '.join(wrong)}. The last good "
            f"checkpoint in {run_dir} is kept. A smaller --learning_rate or "
            "--afd_learning_rate usually helps."
        )


def stop_early(saved, received: int) -> int:
    """Says how to go on, and returns the exit code."""
    say(f"stopped; saved in {saved}. The same command goes on from there.")
    return 130 if received == signal.SIGINT else 0


def report_epoch(metrics: Mapping[str, float], epochs: int, peers) -> None:
    """Prints an epoch in one line."""
    accuracies = ", ".join(
        f"{peer.name} {metrics[f'test/peer_{number}/accuracy']:.2%}"
        for number, peer in enumerate(peers)
    )
    losses = ", ".join(
        f"{metrics[f'train/peer_{number}/loss_logit']:.3f}"
        for number in range(len(peers))
    )
    say(
        f"epoch {metrics['epoch']}/{epochs}: losses {losses}; test {accuracies}, "
        f"ensemble {metrics['test/ensemble/accuracy']:.2%}"
    )


def summarize(method, dataset, state, accuracies: Mapping[str, float]) -> dict:
    """Returns `summary.json`; accuracies are of the last epoch, on the test split."""
    values = resolved_flags()
    pictures = _EPOCHS.value * dataset.info.examples["train"]
    summary = {
        "dataset": dataset.info.name,
        "method": values["method"],
        "peers": [
            {
                "name": peer.name,
                "parameters": peer.parameters,
                "multiply_adds": models.multiply_adds(peer, dataset.info.image_shape),
                "accuracy": accuracies[f"peer_{number}/accuracy"],
            }
            for number, peer in enumerate(method.peers)
        ],
        "mean_accuracy": accuracies["mean/accuracy"],
        "ensemble_accuracy": accuracies["ensemble/accuracy"],
        "epochs": _EPOCHS.value,
        "batch_size": int(values["batch_size"]),
        "seed": int(values["seed"]),
        "seconds": round(state["seconds"], 1),
        "images_per_second": round(pictures / state["seconds"], 1),
    }
    if state["best_validation_accuracy"]:
        summary["best_validation"] = state["best_validation_accuracy"]
    return summary


if __name__ == "__main__":
    run(main)
