"""Trains peers together: flags → a run directory with all that came out.

    python -m afd_tf.train --flagfile=flags/digits.cfg --run_dir=runs/digits
    python -m afd_tf.train --flagfile=flags/cifar.cfg --data_dir=DIR

The same command continues a run that was stopped at any moment. SIGTERM and Ctrl-C
save first. The last line on stdout is `summary.json` as one line.
"""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from afd_tf.command_line import prepare_environment, refuse_arguments, run

_STARTED = time.time()
prepare_environment(training=True)

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
from afd_tf.loop import (  # noqa: E402
    NotFiniteError,
    distribute,
    evaluation_function,
    remaining_steps,
    training_function,
)
from afd_tf.teacher import teachers_from_flags  # noqa: E402

_EPOCHS = flags.DEFINE_integer("epochs", 300, "Length of the run.", lower_bound=1)
_SAVE_MINUTES = flags.DEFINE_float(
    "save_minutes",
    10.0,
    "A checkpoint is written after each epoch, and within one after this time.",
    lower_bound=0,
)


_ON_NAN = flags.DEFINE_enum(
    "on_nan",
    "stop",
    ["stop", "restore"],
    "When a loss or a gradient is not finite: stop, or go back to the last checkpoint "
    "and pass over the batch of that step.",
)
_MAX_RESTORES = flags.DEFINE_integer(
    "max_restores", 3, "How many such steps are passed over.", lower_bound=1
)

# What TensorFlow raises in the other workers when one is lost.
_LOST_WORKER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


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


def main(argv: list[str]) -> int | None:
    """Runs the training that the command line describes."""
    refuse_arguments(argv)
    strategy = runtime.strategy_from_flags()
    crew = runtime.Crew(strategy)
    try:
        return train(strategy, crew)
    except _LOST_WORKER as error:
        if crew.workers == 1:
            raise
        # The strategy cannot go on, and cannot be made again in this process.
        say(
            f"another worker was lost ({type(error).__name__}): starting again with "
            "all of them."
        )
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-m", "afd_tf.train", *sys.argv[1:]])


def train(strategy: tf.distribute.Strategy, crew: runtime.Crew) -> int | None:
    """Trains; returns the exit code."""
    imported = time.time()
    distill.set_method_defaults()
    runtime.precision_from_flags()
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
        method = distill.method_from_flags(peers, teachers_from_flags(dataset.info))
        method.compile(epochs=epochs, steps_per_epoch=steps_per_epoch)
    total_epochs = method.preparation_epochs + epochs
    checkpoints = Checkpoints(run_dir, method)
    state = restored_state(checkpoints, crew)
    if crew.is_chief:
        journal.begin(dataset.info)
        journal.forget_after(state["step"] // steps_per_epoch)
        describe(method, dataset, strategy, state, run_dir)
        describe_learning_rates(method, batch_size)
    state["replicas"] = strategy.num_replicas_in_sync
    built = time.time()

    def batches():
        return iter(
            distribute(
                strategy,
                lambda **part: dataset.train_batches(
                    batch_size=batch_size,
                    seed=seed,
                    epochs=total_epochs,
                    first_step=state["step"],
                    **part,
                ),
            )
        )

    iterator = batches()
    take_steps = None
    evaluate = evaluation_function(method, strategy, dataset)
    stop = StopSignal()
    accuracies: dict[str, float] = {}
    while state["step"] < total_epochs * steps_per_epoch:
        epoch, done = divmod(state["step"], steps_per_epoch)
        preparing = epoch < method.preparation_epochs
        if take_steps is None or preparing != method.preparing:
            method.preparing = preparing
            names: list[str] = []
            take_steps = training_function(method, strategy, iterator, names)
        saved = time.time()
        with progress(
            f"epoch {epoch + 1}/{total_epochs}",
            dataset.info.examples["train"],
            done * batch_size,
        ) as bar:
            bursts = remaining_steps(
                take_steps,
                iterator,
                names,
                state,
                steps_per_epoch=steps_per_epoch,
                crew=crew,
            )
            try:
                for taken in bursts:
                    if built:
                        announce_first_step(imported, loaded, built)
                        built = None
                    bar.update(min(taken * batch_size, bar.total - bar.n))
                    (stopping,) = crew.add(stop.received is not None)
                    # The checkpoint of an epoch's end follows its line of metrics.
                    unfinished = state["step"] % steps_per_epoch
                    if unfinished and stopping:
                        save(checkpoints, state, crew)
                        return stop_early(run_dir, stop.received)
                    if unfinished and time.time() - saved > 60 * _SAVE_MINUTES.value:
                        save(checkpoints, state, crew)
                        saved = time.time()
            except NotFiniteError as error:
                state = state_before(error, state, checkpoints, crew)
                iterator = batches()
                continue

        measured = {}
        if not preparing:
            measured["test"] = accuracies = evaluate("test")
            if dataset.info.examples["validation"]:
                measured["validation"] = evaluate("validation")
        metrics = epoch_metrics(state, names, steps_per_epoch, measured)
        state["sums"] = 0.0
        if "validation" in measured and note_best(
            state, measured["validation"], epoch + 1
        ):
            save(checkpoints, state, crew, best=True)
        if crew.is_chief:
            journal.log_epoch(metrics)
            report_epoch(metrics, total_epochs, peers)
        save(checkpoints, state, crew)
        (stopping,) = crew.add(stop.received is not None)
        if stopping and epoch + 1 < total_epochs:
            return stop_early(run_dir, stop.received)

    accuracies = accuracies or evaluate("test")
    if not crew.is_chief:
        return None
    summary = summarize(method, dataset, state, accuracies)
    journal.write_summary(summary)
    if artifact.export_wanted():
        summary["exported"] = artifact.export_from_flags(run_dir, dataset)
        journal.write_summary(summary)
    print(json.dumps(summary))
    return None


def restored_state(checkpoints: Checkpoints, crew: runtime.Crew) -> dict:
    """Restores the newest checkpoint, or begins; returns where the run is.

    Raises:
      UserError: the workers see different checkpoints.
    """
    state = {
        "step": 0,
        "sums": 0.0,
        "seconds": 0.0,
        "best_validation": None,
        "skipped": [],
        **(checkpoints.restore(mend=crew.is_chief) or {}),
    }
    if crew.add(state["step"]) != [crew.workers * state["step"]]:
        raise UserError(
            "the workers see different checkpoints: put --run_dir on a file system "
            "that all of them share."
        )
    return state


def save(checkpoints, state: dict, crew: runtime.Crew, best: bool = False) -> None:
    """Writes a checkpoint, for all workers."""
    if crew.is_chief:
        checkpoints.save(state, best=best)


def state_before(
    error: NotFiniteError, state: dict, checkpoints: Checkpoints, crew: runtime.Crew
) -> dict:
    """Goes back to the last checkpoint, from where the step of `error` is left out.

    Raises:
      NotFiniteError: that is not wanted, or was done too often.
    """
    skipped = [*state["skipped"], error.step]
    if _ON_NAN.value == "stop" or len(skipped) > _MAX_RESTORES.value:
        raise error
    before = checkpoints.restore(mend=crew.is_chief)
    if before is None:
        raise error
    say(f"{error} Going back to step {before['step']} and passing over that batch.")
    return {**before, "skipped": skipped}


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
    taught = ", ".join(teacher.name for teacher in method.frozen_teachers)
    replicas = strategy.num_replicas_in_sync
    say(
        f"{type(method).__name__}: {peers}{taught and f', taught by {taught}'} on "
        f"{replicas} replica(s)."
    )
    if state["step"]:
        before = state.get("replicas", replicas)
        changed = (
            f", of {before} replica(s), on {replicas}" if before != replicas else ""
        )
        say(f"continuing {run_dir} after step {state['step']}{changed}.")


def describe_learning_rates(method, batch_size: int) -> None:
    """Says which learning rates are used at this step, and that they are not scaled."""
    # By the loss; the same for all peers.
    rates = {
        each.name.partition("/")[2]: f"{float(each.optimizer.learning_rate):g}"
        for each in method.objectives
    }
    say(
        f"a batch is {batch_size} pictures, over all replicas; learning rates are for "
        "the whole batch and are never scaled: "
        f"{', '.join(f'{loss} {rate}' for loss, rate in rates.items())}."
    )


def announce_first_step(imported: float, loaded: float, built: float) -> None:
    """Says how long a user waited for the first step, and for what."""
    now = time.time()
    say(
        f"first step finished {now - _STARTED:.1f} s after the command: imports "
        f"{imported - _STARTED:.1f}, data {loaded - imported:.1f}, networks "
        f"{built - loaded:.1f}, tracing and step {now - built:.1f}."
    )


def epoch_metrics(
    state: Mapping, names: Sequence[str], steps_per_epoch: int, measured: Mapping
) -> dict[str, float]:
    """Returns the epoch's line of metrics: means over its steps, and accuracies."""
    metrics = {"epoch": state["step"] // steps_per_epoch, "step": state["step"]}
    epoch = range(state["step"] - steps_per_epoch, state["step"])
    steps = steps_per_epoch - sum(step in epoch for step in state["skipped"])
    metrics |= {
        f"train/{name}": value / steps
        for name, value in zip(names, state["sums"], strict=True)
    }
    for split, accuracies in measured.items():
        metrics |= {f"{split}/{name}": value for name, value in accuracies.items()}
    return metrics


def note_best(state: dict, validation: Mapping[str, float], epoch: int) -> bool:
    """Notes in `state` an epoch that is the best on validation; returns if it is."""
    before = state["best_validation"]
    if before and before["mean/accuracy"] >= validation["mean/accuracy"]:
        return False
    state["best_validation"] = {**validation, "epoch": epoch}
    return True


def stop_early(run_dir, received: int | None) -> int:
    """Says how to go on, and returns the exit code."""
    say(f"stopped; saved in {run_dir}. The same command goes on from there.")
    return 130 if received == signal.SIGINT else 0


def report_epoch(metrics: Mapping[str, float], epochs: int, peers) -> None:
    """Prints an epoch in one line."""
    losses = {
        name.split("/", 1)[1]: f"{value:.3f}"
        for name, value in metrics.items()
        if "/loss_" in name
    }
    logit = [value for name, value in losses.items() if name.endswith("/loss_logit")]
    if logit:
        accuracies = ", ".join(
            f"{peer.name} {metrics[f'test/peer_{number}/accuracy']:.2%}"
            for number, peer in enumerate(peers)
        )
        shown = (
            f"losses {', '.join(logit)}; test {accuracies}, "
            f"ensemble {metrics['test/ensemble/accuracy']:.2%}"
        )
    else:
        shown = "preparation, " + ", ".join(map(" ".join, losses.items()))
    say(f"epoch {metrics['epoch']}/{epochs}: {shown}")


def summarize(method, dataset, state, accuracies: Mapping[str, float]) -> dict:
    """Returns `summary.json`; accuracies are of the last epoch, on the test split."""
    values = resolved_flags()
    epochs = method.preparation_epochs + _EPOCHS.value
    pictures = epochs * dataset.info.examples["train"]
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
        "preparation_epochs": method.preparation_epochs,
        "batch_size": int(values["batch_size"]),
        "seed": int(values["seed"]),
        "seconds": round(state["seconds"], 1),
        "images_per_second": round(pictures / state["seconds"], 1),
    }
    if state["best_validation"]:
        summary["best_validation"] = state["best_validation"]
    return summary


if __name__ == "__main__":
    run(main)
