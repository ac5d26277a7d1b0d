"""Trains peers together: flags → a run directory with all that came out.

    python -m afd_tf.train --flagfile=flags/digits.cfg --run_dir=runs/digits
    python -m afd_tf.train --flagfile=flags/cifar.cfg --data_dir=DIR

The same command continues a run that was stopped at any moment. SIGTERM and Ctrl-C
save first. The last line on stdout is `summary.json` as one line.
"""

import json
import re
import time
from collections.abc import Mapping

from afd_tf import preemption
from afd_tf.command_line import prepare_environment, refuse_arguments, run

_STARTED = time.time()
_STOP = preemption.StopSignal()
if __name__ == "__main__":
    _STOP.listen()
prepare_environment(training=True)

import tensorflow as tf  # noqa: E402
from absl import flags  # noqa: E402

from afd_tf import artifact, data, distill, models, runner, runtime  # noqa: E402
from afd_tf.checkpoint import Checkpoints  # noqa: E402
from afd_tf.errors import UserError  # noqa: E402
from afd_tf.journal import (  # noqa: E402
    Journal,
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
from afd_tf.summary import (  # noqa: E402
    StartUp,
    describe,
    describe_learning_rates,
    epoch_metrics,
    report_epoch,
    summarize,
    with_bar,
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


def main(argv: list[str]) -> int | None:
    """Runs the training that the command line describes."""
    refuse_arguments(argv)
    workers = runtime.workers_from_flags()
    try:
        strategy = runtime.strategy_from_flags()
        return train(strategy, runtime.Crew(strategy))
    except runtime.LOST_WORKER as error:
        if workers == 1:
            raise
        # From here on nothing can be saved: a signal ends this process at once.
        _STOP.saving = False
        if _STOP.received is not None:
            say("stopped: another worker was lost before this one could save.")
            return _STOP.exit_code
        # The strategy cannot go on, and cannot be made again in this process.
        kind = type(error).__name__
        return preemption.start_again(
            "afd_tf.train", f"another worker was lost ({kind})"
        )


def train(strategy: tf.distribute.Strategy, crew: runtime.Crew) -> int | None:
    """Trains; returns the exit code."""
    start_up = StartUp(_STARTED)
    start_up.passed("imports")
    distill.set_method_defaults()
    runtime.precision_from_flags()
    batch_size = runtime.batch_size_from_flags(strategy)
    seed = runtime.seed_from_flags()

    run_dir = run_dir_from_flags(default_run_name())
    journal = Journal(run_dir, resolved_flags())
    dataset = data.from_flags(expected=journal.info)
    start_up.passed("data")

    steps_per_epoch = dataset.steps_per_epoch(batch_size)
    with strategy.scope():
        peers = models.peers_from_flags(dataset.info)
        # A wrong --peer shows now, not at the export after the training.
        runner.chosen_peer_from_flags(peers)
        method = distill.method_from_flags(peers, teachers_from_flags(dataset.info))
        method.compile(epochs=_EPOCHS.value, steps_per_epoch=steps_per_epoch)
    epochs = method.preparation_epochs + method.epochs
    checkpoints = Checkpoints(run_dir, method)
    state = restored_state(checkpoints, crew)
    if crew.is_chief:
        journal.begin(dataset.info)
        journal.forget_after(state["step"] // steps_per_epoch)
        describe(method, dataset, strategy, state, run_dir)
        describe_learning_rates(method, batch_size)
    state["replicas"] = strategy.num_replicas_in_sync
    if not state["step"] and _ON_NAN.value == "restore":
        # What there is to go back to in the first epoch.
        save(checkpoints, state, crew)
    start_up.passed("networks")

    def batches():
        return iter(
            distribute(
                strategy,
                lambda **part: dataset.train_batches(
                    batch_size=batch_size,
                    seed=seed,
                    epochs=epochs,
                    first_step=state["step"],
                    least=method.least_pictures,
                    **part,
                ),
            )
        )

    iterator = batches()
    take_steps = None
    evaluate = evaluation_function(method, strategy, dataset)
    accuracies: dict[str, float] = {}
    _STOP.saving = True
    while state["step"] < epochs * steps_per_epoch:
        epoch, done = divmod(state["step"], steps_per_epoch)
        preparing = epoch < method.preparation_epochs
        if take_steps is None or preparing != method.preparing:
            method.preparing = preparing
            names: list[str] = []
            take_steps = training_function(method, strategy, iterator, names)
        bursts = with_bar(
            remaining_steps(
                take_steps,
                iterator,
                names,
                state,
                steps_per_epoch=steps_per_epoch,
                crew=crew,
            ),
            f"epoch {epoch + 1}/{epochs}",
            done=done * batch_size,
            total=dataset.info.examples["train"],
            batch_size=batch_size,
        )
        saved = time.time()
        try:
            for _ in bursts:
                start_up.first_step()
                if state["step"] % steps_per_epoch == 0:
                    # This checkpoint follows the epoch's line of metrics.
                    continue
                stopping = is_stopping(crew)
                if stopping or time.time() - saved > 60 * _SAVE_MINUTES.value:
                    save(checkpoints, state, crew)
                    saved = time.time()
                if stopping:
                    return stop_early(run_dir)
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
            report_epoch(metrics, epochs, peers)
        save(checkpoints, state, crew)
        if is_stopping(crew) and epoch + 1 < epochs:
            return stop_early(run_dir)

    accuracies = accuracies or evaluate("test")
    if crew.is_chief:
        end(journal, dataset, summarize(method, dataset, state, accuracies))
    # Who ends, ends well only if the chief has.
    crew.meet()
    return None


def end(journal: Journal, dataset: data.Dataset, summary: dict) -> None:
    """Exports if that is wanted, then says that the run is at its end."""
    if artifact.export_wanted():
        summary["exported"] = artifact.export_from_flags(journal.directory, dataset)
    journal.write_summary(summary)
    print(json.dumps(summary))


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
    preemption.note_progress()


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
    say(f"{error} Going back to step {before['step']} and passing over that batch.")
    return {**before, "skipped": skipped}


def default_run_name() -> str:
    """Returns the name of a run directory from the flags."""
    values = resolved_flags()
    name = "_".join(values[flag] for flag in ("dataset", "method", "peers", "seed"))
    return re.sub(r"[^\w.]+", "-", name)


def note_best(state: dict, validation: Mapping[str, float], epoch: int) -> bool:
    """Notes in `state` an epoch that is the best on validation; returns if it is."""
    before = state["best_validation"]
    if before and before["mean/accuracy"] >= validation["mean/accuracy"]:
        return False
    state["best_validation"] = {**validation, "epoch": epoch}
    return True


def is_stopping(crew: runtime.Crew) -> bool:
    """Returns whether a signal came to any worker."""
    (signals,) = crew.add(int(_STOP.received is not None))
    return signals > 0


def stop_early(run_dir) -> int:
    """Says how to go on, and returns the exit code."""
    say(f"stopped; saved in {run_dir}. The same command goes on from there.")
    return _STOP.exit_code


if __name__ == "__main__":
    run(main)
