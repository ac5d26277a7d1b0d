"""One training in a run directory: the second is refused, a dead one holds nobody."""

import json
import os
import signal
import subprocess
import sys

import pytest

from afd_tf.base.errors import UserError
from afd_tf.training.run_lock import LOCK, lock_run

HOLDER = """
import sys, pathlib
from afd_tf.training.run_lock import lock_run
lock = lock_run(pathlib.Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_the_second_is_told_who_holds_it_and_a_dead_one_does_not(tmp_path):
    directory = tmp_path / "new" / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        found = json.loads((directory / LOCK).read_text())
        with pytest.raises(UserError) as error:
            lock_run(directory)
        for text in (
            f"{directory} is in use by process {holder.pid} on {found['host']} since",
            found["since"],
            "give another --run_dir",
        ):
            assert text in str(error.value)
        # What it wrote is still there for the next that asks.
        assert json.loads((directory / LOCK).read_text()) == found
        os.kill(holder.pid, signal.SIGKILL)
    with lock_run(directory):
        assert json.loads((directory / LOCK).read_text())["process"] == os.getpid()
    with lock_run(directory):
        pass


def test_a_holder_that_has_not_written_yet_is_another_process(tmp_path):
    with lock_run(tmp_path):
        (tmp_path / LOCK).write_text("")
        with pytest.raises(UserError, match="is in use by another process: wait"):
            lock_run(tmp_path)


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*Not a directory"):
        lock_run(tmp_path / "file" / "run")
