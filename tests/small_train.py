"""`afd_tf.train` with "small" among the names of peers; no test, but its program:

python -m tests.small_train --dataset=digits --peers=small,small ...

`Training` starts it, or another program, sooner than that: in a process that is forked
from one that has made the imports.
"""

import gc
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading

if __name__ == "__main__":
    # As the command does before anything else: threads of TensorFlow inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

from afd_tf.base.command_line import prepare_environment, quick_imports

with quick_imports():
    prepare_environment(training=True)

# With all that a training needs.
from tests import exports, tensorflow_settings, tiny  # noqa: F401

NAME = "tests.small_train"
SECONDS = 300

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload([NAME])


class Training:
    """A program in a process of its own, used like a `subprocess.Popen`.

    Args:
      arguments: of its command line.
      program: its module, which has a `main`.
      environment: what it has in addition to that of this process.
    """

    def __init__(self, arguments, program=NAME, environment=()):
        ends = [_FORKING.Pipe(duplex=False) for _ in ("stdout", "stderr")]
        environment = os.environ | dict(environment)
        writers = [writer for _, writer in ends]
        self._process = _FORKING.Process(
            target=_run, args=(program, arguments, environment, *writers), daemon=True
        )
        self._process.start()
        for writer in writers:
            writer.close()
        self.stdout, self.stderr = (
            os.fdopen(os.dup(reader.fileno())) for reader, _ in ends
        )

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout=SECONDS) -> tuple[str, str]:
        """Returns what is left of stdout and stderr; kills it if it takes too long."""
        too_long = threading.Timer(timeout, self.kill)
        too_long.start()
        # Of stdout, there is less than a pipe holds.
        stderr, stdout = self.stderr.read(), self.stdout.read()
        self._process.join()
        too_long.cancel()
        return stdout, stderr


def run(arguments, **settings) -> subprocess.CompletedProcess:
    """Returns how a `Training` ended."""
    training = Training(arguments, **settings)
    stdout, stderr = training.communicate()
    code = training.returncode
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


def _run(program, arguments, environment, *outputs) -> None:
    """Makes this process the one that `python -m` would have started."""
    for number, output in enumerate(outputs, start=1):
        os.dup2(output.fileno(), number)
        output.close()
    os.environ.update(environment)
    sys.argv = [program, *arguments]
    sys.orig_argv = [sys.executable, "-m", program, *arguments]
    importlib.import_module(program).main()


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    # As the command does when it has made its imports.
    gc.freeze()
    tiny.register_small()
    tensorflow_settings.begin_sooner()
    runpy.run_module("afd_tf.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
