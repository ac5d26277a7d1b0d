"""Worker processes that a benchmark measures, one at a time while the others wait.

`serve` is the loop inside a worker; `Worker` is the handle with which the measuring
process starts one and sends it requests. Nothing here imports TensorFlow: a worker
holds only what it imports itself, so that its peak memory is its own.
"""

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from afd_tf.base.errors import UserError

# Inside a worker.


def serve(prepare: Callable[[], tuple[Mapping, Callable[[Mapping], Mapping]]]) -> None:
    """Answers the requests on stdin, one JSON object a line, until stdin is closed.

    On stdout goes one JSON object a line: first the description of what was prepared,
    or {"refused": message}, then the answer to each request. When stdin is closed, the
    process ends at once, even in the middle of a request.

    Args:
      prepare: returns the description, and a function from a request to its answer. A
        `UserError` that `prepare` raises becomes the refusal; one that the function
        raises ends the process.
    """
    requests = _requests()
    # Whatever else is printed, also by C++ code, must not be taken for an answer.
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        description, answer = prepare()
    except UserError as error:
        _write(answers, {"refused": str(error)})
        return
    _write(answers, description)
    while True:
        _write(answers, answer(requests.get()))


def resident_peak() -> int | None:
    """Returns the peak memory of this process in bytes, or None if it is unknown.

    It is the peak of the resident set since the process began, as Linux counts it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    # Not getrusage's ru_maxrss, which begins with the peak of the process that
    # started this one.
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])


def _requests() -> queue.SimpleQueue:
    """Returns a queue of the requests on stdin, at whose end the process ends at once.

    That is how a worker learns that the process that started it is gone, even if that
    one was killed: nobody then waits for the rest of the measurement.
    """
    requests = queue.SimpleQueue()

    def listen():
        # Unbuffered: Python cannot end while a thread waits inside a buffer.
        with open(0, "rb", buffering=0, closefd=False) as lines:
            for line in lines:
                requests.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return requests


def _write(answers: TextIO, values: Mapping) -> None:
    print(json.dumps(values), file=answers, flush=True)


# In the measuring process.


class Worker:
    """The handle of a process that runs `serve`.

    The process ends with the `with` block, or with the process that started it,
    however that one ends.

    Args:
      name: of what it measures, for messages.
      command: that starts it.
      environment: variables that are set beside or instead of those of this process.
      quiet: whether its stderr is kept from the stderr of this process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
    ):
        self.name = name
        self._quiet = quiet
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            # Ctrl-C is for this process, which then ends the worker. If both received
            # it, the message would depend on which of them was faster.
            start_new_session=True,
        )
        self._last_line = ""
        self._reader = threading.Thread(target=self._forward_stderr, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()
        # A dead worker leaves requests unread.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def answer(self) -> dict:
        """Returns the description at first, then the answer to the next request.

        Raises:
          UserError: the worker has ended.
        """
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._reader.join()
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise UserError(
            f"the worker of {self.name} ended with {ending}; its last line on stderr: "
            f"{self._last_line or 'none'}"
        )

    def send(self, request: Mapping) -> None:
        """Sends a request without waiting; `answer` returns its answer."""
        # A dead worker is reported by `answer`.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def ask(self, request: Mapping) -> dict:
        """Sends a request and returns its answer.

        Raises:
          UserError: the worker has ended.
        """
        self.send(request)
        return self.answer()

    def _forward_stderr(self) -> None:
        for line in self._process.stderr:
            if not self._quiet:
                sys.stderr.write(line)
            self._last_line = line.strip() or self._last_line


def run_interleaved(
    workers: Sequence[Worker], rounds: int, request: Mapping
) -> list[list[dict]]:
    """Sends the same request to each worker in every round, one worker at a time.

    The order is reversed in every other round, so that none is always the first.

    Args:
      workers: at least one; their descriptions have been read.
      rounds: number of rounds.
      request: what `Worker.ask` sends.

    Returns:
      for each worker its answers, one a round.

    Raises:
      UserError: a worker has ended.
    """
    answers: list[list[dict]] = [[] for _ in workers]
    for number in range(rounds):
        order = list(zip(workers, answers, strict=True))
        for worker, own in reversed(order) if number % 2 else order:
            own.append(worker.ask(request))
    return answers
