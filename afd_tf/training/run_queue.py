"""Many trainings, each in a process of its own, some at a time.

Nothing here imports TensorFlow: the trainings have the memory to themselves.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.base.files import writing_to
from afd_tf.training.run_lock import lock_run

try:
    import fcntl
except ImportError:  # Windows, where a queue that was killed leaves no trace
    fcntl = None

LOG = "log.txt"

_POLL_SECONDS = 0.2
# Of a failed run's log.
_SHOWN_LINES = 3


@dataclasses.dataclass(frozen=True)
class QueuedRun:
    """A training that is to be done.

    Attributes:
      name: for messages.
      directory: the run directory.
      command: that begins the training and, given again, continues it.
    """

    name: str
    directory: Path
    command: Sequence[str]

    @property
    def is_finished(self) -> bool:
        """Whether the run directory has the summary that marks the end."""
        return (self.directory / "summary.json").exists()


class RunQueue:
    """Carries out runs in their order, a number of them at a time.

    What a run prints is appended to `log.txt` in its directory. A run that another
    process trains, such as one that a killed queue has left behind, is waited for. On a
    GPU, every process takes only the memory that it needs; each one has an equal share
    of the CPU cores to itself where the system can bind processes to cores.

    Args:
      runs: in the order in which they are to be begun.
      parallel: the number of runs at a time.
    """

    def __init__(self, runs: Sequence[QueuedRun], parallel: int):
        self._runs = runs
        self._waiting = [run for run in runs if not run.is_finished]
        self._slots = list(range(parallel))
        self._shares = _core_shares(parallel)
        self._active: list[_ActiveRun] = []

    def work(self, is_stopping: Callable[[], bool]) -> list[QueuedRun]:
        """Carries the runs out until all are done, or until `is_stopping`.

        A run that fails keeps no other one from going on. When it stops, the runs that
        go on save first: the next call of another queue continues them.

        Args:
          is_stopping: is asked several times a second.

        Returns:
          the runs that failed.
        """
        done = len(self._runs) - len(self._waiting)
        if done:
            say(f"{done} of {len(self._runs)} runs are finished already.")
        failed = []
        blocked: set[str] = set()
        try:
            while self._waiting or self._active:
                if is_stopping():
                    break
                self._begin_runs(blocked)
                time.sleep(_POLL_SECONDS)
                for active in self._ended():
                    if active.run.is_finished:
                        done += 1
                        say(f"{active.run.name}: done ({done} of {len(self._runs)}).")
                    else:
                        failed.append(active.run)
                        say(f"{active.run.name}: failed. {active.last_words()}")
        finally:
            self._stop()
        return failed

    def _begin_runs(self, blocked: set[str]) -> None:
        """Begins as many runs as there are free slots.

        Args:
          blocked: names of the runs that were seen in another process, updated.
        """
        for run in list(self._waiting):
            if not self._slots:
                return
            if run.is_finished:
                # By the other process.
                self._waiting.remove(run)
                say(f"{run.name}: done by another process.")
                continue
            log = _free_log(run.directory)
            if log is None:
                if run.name not in blocked:
                    say(f"{run.name}: another process trains it; waiting for that one.")
                    blocked.add(run.name)
                continue
            self._waiting.remove(run)
            slot = self._slots.pop(0)
            self._active.append(_ActiveRun(run, log, slot, self._shares[slot]))

    def _ended(self) -> Iterator["_ActiveRun"]:
        """Reports epochs; yields the runs whose process has ended."""
        for active in list(self._active):
            is_over = active.process.poll() is not None
            active.report_epochs()
            if is_over:
                active.close()
                self._active.remove(active)
                self._slots.append(active.slot)
                yield active

    def _stop(self) -> None:
        """Lets the runs that go on save and end."""
        for active in self._active:
            active.process.send_signal(signal.SIGTERM)
        for active in self._active:
            active.process.wait()
            active.report_epochs()
            active.close()


class _ActiveRun:
    """A run with its process.

    Args:
      run: to begin.
      log: of `_free_log`.
      slot: the number of its place among those that run at a time.
      cores: to bind it to; None where that is not possible.
    """

    def __init__(
        self, run: QueuedRun, log: BinaryIO, slot: int, cores: set[int] | None
    ):
        self.run = run
        self.slot = slot
        self._log = log
        # An earlier process has its part of the log, and its epochs were reported.
        self._began = self._read = self._log.tell()
        with _bound_to(cores):
            self.process = subprocess.Popen(
                run.command,
                stdin=subprocess.DEVNULL,
                # The summary, which is also in its file.
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env={**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"},
                # Ctrl-C is for this process, which then ends the runs.
                start_new_session=True,
            )
        say(f"{run.name}: {'going on' if self._began else 'begun'}.")

    def report_epochs(self) -> None:
        """Prints the epochs that the run has reported since the last call."""
        text = self._log_from(self._read)
        # The last line may not be complete yet.
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if line.startswith("epoch "):
                say(f"{self.run.name}: {line}")

    def last_words(self) -> str:
        """Returns where the log is, and the last lines of this process in it."""
        text = self._log_from(self._began).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        shown = errors[-1:] or lines[-_SHOWN_LINES:]
        code = self.process.returncode
        return f"Exit code {code}, {self.run.directory / LOG}: {' | '.join(shown)}"

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def _log_from(self, start: int) -> bytes:
        with (self.run.directory / LOG).open("rb") as file:
            file.seek(start)
            return file.read()


def _free_log(directory: Path) -> BinaryIO | None:
    """Opens the log of a run that no other process trains; else returns None.

    The log is locked. The process that inherits it keeps the lock for as long as it
    lives, also where the queue that began it was killed.
    """
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        log = (directory / LOG).open("ab")
    try:
        if fcntl is not None:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Where the command was given without a queue.
        lock = lock_run(directory)
    except (BlockingIOError, UserError):
        log.close()
        return None
    if lock is not None:
        lock.close()
    return log


def _core_shares(parallel: int) -> list[set[int] | None]:
    """Returns the cores of each of `parallel` processes; None is all of them."""
    if parallel == 1 or not hasattr(os, "sched_setaffinity"):
        return [None] * parallel
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < parallel:
        return [{cores[slot % len(cores)]} for slot in range(parallel)]
    bounds = [slot * len(cores) // parallel for slot in range(parallel + 1)]
    return [set(cores[bounds[n] : bounds[n + 1]]) for n in range(parallel)]


@contextlib.contextmanager
def _bound_to(cores: set[int] | None) -> Iterator[None]:
    """Binds this thread to cores, which a process that it begins inherits."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
