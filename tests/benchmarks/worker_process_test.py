"""Workers that answer one after the other, die, or lose the process that asked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from afd_tf.base.errors import UserError
from afd_tf.benchmarks import worker_process
from afd_tf.benchmarks.worker_process import Worker, run_interleaved

# It leaves a file in a folder when it starts, notes each request there, and executes in
# its second round what the environment says.
FAKE = """
import json, os, pathlib, signal, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
(folder / f"{name}_{os.getpid()}").touch()
print(json.dumps({"name": name}), flush=True)
for number, line in enumerate(sys.stdin):
    with open(folder / "order", "a") as order:
        order.write(name + "\\n")
    if number:
        print("warming up\\nOops: it broke\\n", file=sys.stderr, flush=True)
        exec(os.environ.get("LAST_DEED", ""))
    print(json.dumps({"name": name, "number": number, **json.loads(line)}), flush=True)
"""

# Starts one, asks it twice, and would wait for its second answer.
STARTER = """
import signal, sys
# A shell's job in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from afd_tf.benchmarks.worker_process import Worker, run_interleaved
with Worker("a", [sys.executable, "-c", sys.argv[1], "a", sys.argv[2]]) as worker:
    worker.answer()
    run_interleaved([worker], 9, {"steps": 1})
"""


def start(name: str, folder: Path, **settings) -> Worker:
    return Worker(name, [sys.executable, "-c", FAKE, name, str(folder)], **settings)


def running(folder: Path) -> list[str]:
    """The names of the workers that have started and not ended."""
    return sorted(
        path.name.split("_")[0]
        for path in folder.glob("*_*")
        if Path("/proc", path.name.split("_")[1]).exists()
    )


def test_workers_answer_one_after_the_other(tmp_path):
    with start("a", tmp_path) as a, start("b", tmp_path) as b:
        assert [each.answer() for each in (a, b)] == [{"name": "a"}, {"name": "b"}]
        assert running(tmp_path) == ["a", "b"]
        answers = run_interleaved([a, b], 3, {"steps": 4})
    assert answers == [
        [{"name": name, "number": number, "steps": 4} for number in range(3)]
        for name in ("a", "b")
    ]
    # The order is reversed in every other round.
    assert (tmp_path / "order").read_text().split() == ["a", "b", "b", "a", "a", "b"]
    assert running(tmp_path) == []


@pytest.mark.parametrize("quiet", [False, True])
def test_stderr_of_a_worker_is_passed_on_unless_it_is_quiet(tmp_path, capfd, quiet):
    with start("a", tmp_path, quiet=quiet) as worker:
        worker.answer()
        run_interleaved([worker], 2, {})
    expected = "" if quiet else "warming up\nOops: it broke\n\n"
    assert capfd.readouterr().err == expected


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (
            "sys.exit(3)",
            "worker of a ended with exit code 3; .*stderr: Oops: it broke$",
        ),
        ("os.kill(os.getpid(), 9)", "with signal 9; .*stderr: Oops: it broke$"),
    ],
)
def test_a_dead_worker_is_reported_with_its_last_line(tmp_path, deed, message):
    environment = {"LAST_DEED": deed}
    with (
        start("a", tmp_path, environment=environment) as worker,
        pytest.raises(UserError, match=message) as raised,
    ):
        worker.answer()
        run_interleaved([worker], 2, {})
    assert "\n" not in str(raised.value)
    with start("b", tmp_path, environment=environment) as worker:
        worker.answer()
        worker.ask({})
        worker.send({})
        # Later requests, which nobody reads, leave the message as it is.
        for _ in range(3):
            worker.send({})
        with pytest.raises(UserError, match="worker of b ended with"):
            worker.answer()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_is_left_when_its_starter_is_interrupted_or_killed(tmp_path, number):
    deed = f"os.kill(os.getppid(), {int(number)}); sys.stdin.read()"
    # Not this process, which other tests share.
    code = subprocess.run(
        [sys.executable, "-c", STARTER, FAKE, str(tmp_path)],
        env={**os.environ, "LAST_DEED": deed},
        capture_output=True,
        check=False,
    ).returncode
    # Python ends itself with SIGINT where nobody catches it.
    assert code == -number
    assert list(tmp_path.glob("a_*"))
    deadline = time.time() + 20
    while running(tmp_path) and time.time() < deadline:
        time.sleep(0.1)
    assert running(tmp_path) == []


def test_the_peak_of_the_memory_only_grows():
    before = worker_process.resident_peak()
    assert before > 1e6
    content = bytes(range(256)) * 400_000
    assert worker_process.resident_peak() >= before
    del content
    assert worker_process.resident_peak() >= before
