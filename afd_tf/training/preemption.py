"""Early ends of a process: a signal asks for it, or another worker is lost."""

import os
import signal
import sys
import threading

from afd_tf.base.console import say
from afd_tf.base.errors import UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The shell's code for Ctrl-C; a preempted process has done what it was asked for.
_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0}

# Counts how often this process has started itself again without a checkpoint.
_STARTS = "AFD_TF_STARTS_WITHOUT_PROGRESS"
_MOST_STARTS = 20


class StopSignal:
    """SIGTERM and Ctrl-C, recorded while there is something to save.

    A thread waits for them. A handler of Python does not run while this process waits
    in C++ for the other workers, and TensorFlow then has one of its own for SIGTERM,
    which only notes it.

    Attributes:
      received: the first signal that came while `saving`.
      saving: whether the program checks `received` and saves. Before that, a signal
        ends the process at once; so does a second Ctrl-C at any time.
    """

    def __init__(self):
        self.received: int | None = None
        self.saving = False

    def listen(self) -> None:
        """Begins; to be called before any other thread, which could take a signal."""
        # Windows has neither: there, a signal ends the process at any time.
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            threading.Thread(target=self._wait, daemon=True).start()

    @property
    def exit_code(self) -> int:
        """Of the process when it stops; 0 where the signal came to another worker."""
        return _EXIT_CODES.get(self.received, 0)

    def _wait(self) -> None:
        while True:
            number = signal.sigwait(_SIGNALS)
            again = self.received is not None and number == signal.SIGINT
            if again or not self.saving:
                print("interrupted.", file=sys.stderr, flush=True)
                os._exit(_EXIT_CODES[number])
            if self.received is None:
                say("stopping: saving a checkpoint first.")
                self.received = number


def start_again(reason: str) -> None:
    """Runs this process's command again in its place; does not return.

    Args:
      reason: why this process cannot go on.

    Raises:
      UserError: that was done too often, without `note_progress` in between.
    """
    starts = int(os.environ.get(_STARTS, "0")) + 1
    if starts > _MOST_STARTS:
        raise UserError(
            f"{_MOST_STARTS} starts ended without a checkpoint, the last because "
            f"{reason}: see what the other workers say. What was saved is kept."
        )
    print(f"{reason}: starting again with all of them.", file=sys.stderr, flush=True)
    os.environ[_STARTS] = str(starts)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def note_progress() -> None:
    """Records that a checkpoint was saved."""
    os.environ.pop(_STARTS, None)
