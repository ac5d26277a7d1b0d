"""Processes that are measured in turns: one works, the others wait.

`serve` is what such a process does; `Worker` is how the process that measures starts
and asks one. TensorFlow has no part in it: a worker holds only what it imports itself.
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

from afd_tf.errors import UserError

# What a worker does.


def serve(prepare: Callable[[], tuple[Mapping, Callable[[Mapping], Mapping]]]) -> None:
    """Answers what is asked on stdin, a line each, until stdin is closed.

    On stdout is one JSON object a line. The first is the description of what was
    prepared, or {"refused": ...}, what was wrong. Each further one answers a request.
    When stdin is closed, the process ends, whatever it is at.

    Args:
      prepare: returns the description, and what turns a request into its answer. A
        `UserError` of the first is refused, one of the second ends the process.
    """
    requests = _requests()
    # Whatever else is printed, in C++ as well, is no answer.
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
    """Returns the most bytes that this process has held in memory, if it is told."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    # Not getrusage's ru_maxrss, which begins with the peak of the process that
    # started this one.
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])


def _requests() -> queue.SimpleQueue:
    """Returns what arrives on stdin; at its end, the process ends at once.

    That is how a worker learns that the process that started it is gone, even if that
    one was killed: nobody then waits for the rest of a turn.
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


# What the process does that starts the workers.


class Worker:
    """Another process at `serve`.

    It ends with the `with` block, or with this process, however that ends.

    Args:
      name: of what it works at.
      command: that starts it.
      environment: variables that are others than here.
      quiet: whether what it says on stderr is not said here as well.
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
            # Ctrl-C is for this process, which then ends the other: who of the two
            # comes first would else decide what the user is told.
            start_new_session=True,
        )
        self._last_line = ""
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()
        # What a dead worker has not read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def answer(self) -> dict:
        """Returns what the worker says next.

        Raises:
          UserError: it has ended instead.
        """
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._reader.join()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise UserError(
            f"the worker of {self.name} ended with {how}; the last that it said: "
            f"{self._last_line or 'nothing'}"
        )

    def send(self, request: Mapping) -> None:
        """Sends a request, to which `answer` is the next."""
        # A dead one shows in its answer.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def ask(self, request: Mapping) -> dict:
        """Returns the answer to a request.

        Raises:
          UserError: the worker has ended.
        """
        self.send(request)
        return self.answer()

    def _pass_on(self) -> None:
        for line in self._process.stderr:
            if not self._quiet:
                sys.stderr.write(line)
            self._last_line = line.strip() or self._last_line


def in_turns(
    workers: Sequence[Worker], rounds: int, request: Mapping
) -> list[list[dict]]:
    """Asks all workers the same, round after round; who begins takes turns as well.

    Returns:
      the answers of each worker, a round each.

    Raises:
      UserError: a worker has ended.
    """
    answers: list[list[dict]] = [[] for _ in workers]
    for number in range(rounds):
        order = list(zip(workers, answers, strict=True))
        for worker, own in reversed(order) if number % 2 else order:
            own.append(worker.ask(request))
    return answers
