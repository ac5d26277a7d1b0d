"""Trains peers together: flags → a run directory with all that came out.

    python -m afd_tf.train --flagfile=flags/digits.cfg --run_dir=runs/digits
    python -m afd_tf.train --flagfile=flags/cifar.cfg --data_dir=DIR

The same command continues a run that was stopped at any moment. SIGTERM and Ctrl-C
save first. The last line on stdout is `summary.json` as one line.
"""

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from afd_tf.base.command_line import prepare_environment, refuse_arguments, run
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.base.json_text import print_json
from afd_tf.base.run_flags import resolved_flags
from afd_tf.training import preemption

_LONGEST_NAME = 200  # bytes; file systems take 255

_STARTED = time.time()
_STOP = preemption.StopSignal()
if __name__ == "__main__":
    _STOP.listen()
prepare_environment(training=True)

import tensorflow as tf

from afd_tf import data, models
from afd_tf.artifacts.exporter import (
    check_export_from_flags,
    export_from_flags,
    export_wanted,
)
from afd_tf.artifacts.peer_choice import chosen_peer_from_flags
from afd_tf.artifacts.teacher import teachers_from_flags
from afd_tf.distill import methods
from afd_tf.distill.method import Method
from afd_tf.training.checkpoint_choice import checkpoint_from_flags
from afd_tf.training.checkpoints import Checkpoints, save_seconds_from_flags
from afd_tf.training.console_report import (
    StartupTimer,
    epoch_metrics,
    report_end,
    report_epoch,
    report_start,
    summarize,
    with_bar,
)
from afd_tf.training.initialization import initialize_from_flags
from afd_tf.training.loop import TrainingLoop, epochs_from_flags, evaluation_function
from afd_tf.training.network_records import building_settings, keep_networks
from afd_tf.training.numerics import (
    allow_auto_clustering,
    precision_from_flags,
    seed_from_flags,
)
from afd_tf.training.run_directory import (
    RunDirectory,
    report_wanted,
    run_dir_from_flags,
)
from afd_tf.training.run_lock import lock_run
from afd_tf.training.run_state import (
    NotFiniteError,
    RunState,
    patience_from_flags,
    restored_state,
    save,
    save_for_restore,
    state_before,
)
from afd_tf.training.strategy import (
    batch_size_from_flags,
    strategy_from_flags,
    worker_count_from_flags,
)
from afd_tf.training.workers import LOST_WORKER, Workers


class Session(NamedTuple):
    """The parts of a run that every epoch needs."""

    run_directory: RunDirectory
    dataset: data.Dataset
    method: Method
    checkpoints: Checkpoints
    loop: TrainingLoop
    workers: Workers


def main(argv: list[str]) -> int | None:
    """Runs the training that the command line describes."""
    refuse_arguments(argv)
    count = worker_count_from_flags()
    try:
        strategy = strategy_from_flags()
        return train(strategy, Workers(strategy))
    except LOST_WORKER as error:
        if count == 1:
            raise
        # From here on nothing can be saved: a signal ends this process at once.
        _STOP.saving = False
        if _STOP.received is not None:
            say("stopped: another worker was lost before this one could save.")
            return _STOP.exit_code
        # The strategy cannot go on, and cannot be made again in this process.
        kind = type(error).__name__
        return preemption.start_again(f"another worker was lost ({kind})")


def train(strategy: tf.distribute.Strategy, workers: Workers) -> int | None:
    """Trains; returns the exit code."""
    timer = StartupTimer(_STARTED)
    timer.mark("imports")
    if export_wanted():
        # What an export cannot do shows now, not after the training.
        check_export_from_flags()
    methods.set_method_defaults()
    precision_from_flags()
    seed = seed_from_flags()
    batch_size = batch_size_from_flags(strategy)

    run_directory = RunDirectory(run_dir_from_flags() or default_run_dir())
    dataset = data.from_flags(
        expected=run_directory.info, recorded=run_directory.record
    )
    validation_images = dataset.info.examples["validation"]
    patience = patience_from_flags(validation_images)
    if export_wanted():
        checkpoint_from_flags(validation_images)
    timer.mark("data")

    with strategy.scope():
        method = build_method(run_directory.directory, dataset, batch_size, seed)
    # Held until this process ends.
    lock = lock_run(run_directory.directory) if workers.is_chief else None
    checkpoints = Checkpoints(run_directory.directory, method)
    state = restored_state(checkpoints, workers)
    if not state.step:
        initialize_from_flags(method.peers)
    check_length(run_directory, method, state)
    replicas = strategy.num_replicas_in_sync
    if workers.is_chief:
        run_directory.initialize(dataset.info, dataset.record)
        keep_networks(run_directory.directory, [*method.peers, *method.frozen_teachers])
        run_directory.truncate_metrics(state.step // method.steps_per_epoch)
        report_start(
            method,
            dataset,
            state,
            run_directory.directory,
            replicas=replicas,
            batch_size=batch_size,
        )
    state.replicas = replicas
    save_for_restore(checkpoints, state, workers)
    timer.mark("networks")

    loop = TrainingLoop(
        method, strategy, workers, dataset, batch_size=batch_size, seed=seed
    )
    loop.rewind(state)
    session = Session(run_directory, dataset, method, checkpoints, loop, workers)
    evaluate = evaluation_function(method, strategy, dataset)
    accuracies: dict[str, float] = {}
    _STOP.saving = True
    while not is_over(loop, state, patience):
        try:
            finished = train_epoch(session, state, timer)
        except NotFiniteError as error:
            state = state_before(error, state, checkpoints, workers)
            loop.rewind(state)
            continue
        if not finished:
            return stop_early(run_directory.directory)
        accuracies = end_epoch(session, state, evaluate)
        if is_stopping(workers) and not is_over(loop, state, patience):
            return stop_early(run_directory.directory)

    accuracies = accuracies or evaluate("test")
    if workers.is_chief:
        end(run_directory, dataset, summarize(method, dataset, state, accuracies))
    # The other workers end well only if the chief has.
    workers.barrier()
    if lock is not None:
        lock.close()
    return None


def build_method(
    run_dir: Path, dataset: data.Dataset, batch_size: int, seed: int
) -> Method:
    """Builds the peers and the method that the flags describe, and compiles it."""
    building = building_settings(run_dir)
    peers = models.peers_from_flags(dataset.info, **building)
    # A wrong --peer shows now, not at the export after the training.
    chosen_peer_from_flags(peers)
    method = methods.method_from_flags(
        peers, teachers_from_flags(dataset.info, **building), dataset.class_counts
    )
    method.compile(
        epochs=epochs_from_flags(),
        steps_per_epoch=dataset.steps_per_epoch(batch_size),
        seed=seed,
    )
    allow_auto_clustering(method)
    return method


def check_length(run_directory: RunDirectory, method: Method, state: RunState) -> None:
    """Reports that --epochs extends or shortens a run that goes on.

    Raises:
      UserError: the run is longer already.
    """
    epochs = method.warmup_epochs + method.epochs
    done = -(-state.step // method.steps_per_epoch)
    if done > epochs:
        raise UserError(
            f"{run_directory.directory} has trained for {done} epochs, not {epochs}: "
            f"give --epochs={done - method.warmup_epochs} or more, or another "
            "--run_dir."
        )
    if run_directory.epochs_before is not None:
        say(
            f"the run had --epochs={run_directory.epochs_before}, and has "
            f"--epochs={method.epochs} now: the learning rates that are still to come "
            "follow the new length."
        )


def is_over(loop: TrainingLoop, state: RunState, patience: int | None) -> bool:
    """Returns whether all epochs are done, or validation has stopped to gain."""
    epoch, rest = divmod(state.step, loop.steps_per_epoch)
    if epoch >= loop.epochs:
        return True
    return rest == 0 and state.is_out_of_patience(patience, epoch)


def train_epoch(session: Session, state: RunState, timer: StartupTimer) -> bool:
    """Takes the steps that are left of an epoch, and saves now and then.

    Returns:
      whether the epoch is over; else a signal came, and the run is saved.
    """
    loop, workers = session.loop, session.workers
    epoch, done = divmod(state.step, loop.steps_per_epoch)
    chunks = with_bar(
        loop.rest_of_epoch(state),
        f"epoch {epoch + 1}/{loop.epochs}",
        done=done * loop.batch_size,
        total=session.dataset.info.examples["train"],
        batch_size=loop.batch_size,
    )
    saved = time.time()
    for _ in chunks:
        timer.first_step()
        if state.step % loop.steps_per_epoch == 0:
            # This checkpoint follows the epoch's line of metrics.
            continue
        stopping = is_stopping(workers)
        if stopping or time.time() - saved > save_seconds_from_flags():
            save(session.checkpoints, state, workers)
            saved = time.time()
        if stopping:
            return False
    return True


def end_epoch(
    session: Session, state: RunState, evaluate: Callable[[str], dict[str, float]]
) -> dict[str, float]:
    """Evaluates, logs and saves; returns the accuracies on the test split, if any."""
    loop, workers, info = session.loop, session.workers, session.dataset.info
    epoch = state.step // loop.steps_per_epoch
    measured = {}
    if epoch > session.method.warmup_epochs:
        measured["test"] = evaluate("test")
        if info.examples["validation"]:
            measured["validation"] = evaluate("validation")
    metrics = epoch_metrics(state, loop.names, loop.steps_per_epoch, measured)
    state.sums = 0.0
    if "validation" in measured and state.note_best(measured["validation"], epoch):
        save(session.checkpoints, state, workers, best=True)
    if workers.is_chief:
        session.run_directory.log_epoch(metrics)
        report_epoch(metrics, loop.epochs, session.method.peers)
    save(session.checkpoints, state, workers)
    return measured.get("test", {})


def end(run_directory: RunDirectory, dataset: data.Dataset, summary: dict) -> None:
    """Exports if that is wanted, then marks and reports the end of the run."""
    if export_wanted():
        summary["exported"] = export_from_flags(run_directory.directory, dataset)
    run_directory.write_summary(summary)
    report_end(summary, run_directory.directory)
    if report_wanted():
        write_report(run_directory.directory)
    print_json(summary)


def write_report(run_dir: Path) -> None:
    """Writes the report on a run that has ended into its directory."""
    # Imported now: its figures and its page take a second to import.
    from afd_tf.analysis import report

    written = report.write_report([run_dir], run_dir / report.FOLDER, images=True)
    say(f"report: {written['files'][0]}")


def default_run_dir() -> Path:
    """Returns the run directory that the flags lead to if --run_dir is not given."""
    values = resolved_flags()
    name = "_".join(values[flag] for flag in ("dataset", "method", "peers", "seed"))
    name = re.sub(r"[^\w.]+", "-", name)
    if len(name.encode()) > _LONGEST_NAME:
        # Many peers, or a long path: the beginning, and a hash of all of it.
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}_{digest}"
    return Path("runs") / name


def is_stopping(workers: Workers) -> bool:
    """Returns whether any worker received a signal."""
    (signals,) = workers.all_reduce_sum(int(_STOP.received is not None))
    return signals > 0


def stop_early(run_dir: Path) -> int:
    """Reports how to go on, and returns the exit code."""
    say(f"stopped; saved in {run_dir}. The same command goes on from there.")
    return _STOP.exit_code


if __name__ == "__main__":
    run(main)
