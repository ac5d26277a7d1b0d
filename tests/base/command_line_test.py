"""Commands that are interrupted, and commands whose output nobody can take."""

import gc
import importlib
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from afd_tf.base.command_line import quick_imports

ROOT = Path(__file__).parents[2]

# A command that does what its first argument says.
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from afd_tf.base import command_line

def main(argv):
    if argv[1] == "other":
        raise BrokenPipeError("of a worker, not of standard output")
    for stream in (sys.stdout, sys.stderr) if argv[1] == "both" else (sys.stdout,):
        print("x" * (10 if argv[1] == "little" else 100_000), file=stream)
    return 3 if argv[1] == "fails" else None

command_line.run(main)
"""


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"], autouse=True)
def buffers(request, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


def run(argument, stdout, **options):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, argument],
        stdout=stdout,
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        check=False,
        **options,
    )


@pytest.fixture
def closed_pipe():
    """The end to write to of a pipe that nobody reads, as behind `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("argument", ["little", "much", "fails", "--help"])
def test_nobody_reads_standard_output(argument, closed_pipe):
    result = run(argument, closed_pipe)
    assert (result.returncode, result.stderr) == (141, "")


def test_nobody_reads_any_output(closed_pipe):
    assert run("both", closed_pipe, stderr=closed_pipe).returncode == 141


def test_another_broken_pipe_is_a_fault_of_the_program():
    result = run("other", subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("of a worker, not of standard output")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("argument", ["little", "much"])
def test_a_full_disk_behind_standard_output_is_one_line(argument):
    with open("/dev/full", "w") as full:
        result = run(argument, full)
    assert result.returncode == 1
    assert result.stderr == (
        "error: cannot write to standard output: No space left on device. Correct "
        "that, then give the same command.\n"
    )


@pytest.fixture
def heard():
    """Lets new processes hear Ctrl-C, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("command", ["analyze", "evaluate", "export", "predict"])
def test_an_interrupt_during_the_imports_is_one_line(command, tmp_path, heard):
    (tmp_path / "tensorflow.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"
    )
    # predict and evaluate import it when they open what needs it.
    (tmp_path / "saved_model.pb").touch()
    images = ["a.png"] if command == "predict" else []
    with subprocess.Popen(
        [sys.executable, "-m", f"afd_tf.{command}", f"--artifact={tmp_path}", *images],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted.\n")


def test_importing_a_command_leaves_the_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    from afd_tf import predict

    assert predict.main
    assert signal.getsignal(signal.SIGINT) is before


def test_what_keras_can_do_without_is_hidden_while_a_program_imports(monkeypatch):
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    there = types.ModuleType("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib", there)
    with pytest.raises(KeyError), quick_imports():
        with pytest.raises(ImportError):
            importlib.import_module("sklearn")
        # What is imported already stays.
        assert importlib.import_module("matplotlib") is there
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    assert "sklearn" not in sys.modules
    assert sys.modules["matplotlib"] is there
