"""Starting again, and how often that may come to nothing. Signals: train_test.py."""

import os
import sys

import pytest

from afd_tf.base.errors import UserError
from afd_tf.training import preemption


@pytest.fixture
def starts(monkeypatch):
    """The commands with which this process would have run something else."""
    commands = []
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    command = ["python3", "-X", "utf8", "-m", "afd_tf.train", "--epochs=3"]
    monkeypatch.setattr(sys, "orig_argv", command)
    # Set, so that what a test leaves of it is undone.
    monkeypatch.setenv(preemption._STARTS, "0")
    return commands


def test_starts_the_same_command_again_and_says_why(starts, capfd):
    preemption.start_again("another worker was lost")
    assert starts == [
        [sys.executable, "-X", "utf8", "-m", "afd_tf.train", "--epochs=3"]
    ]
    assert capfd.readouterr().err == (
        "another worker was lost: starting again with all of them.\n"
    )


def test_starts_that_come_to_nothing_end(starts):
    for _ in range(20):
        preemption.start_again("it broke")
    with pytest.raises(
        UserError, match=r"20 starts ended without a checkpoint.* it broke"
    ):
        preemption.start_again("it broke")
    assert len(starts) == 20


def test_a_checkpoint_in_between_is_progress(starts):
    for _ in range(3):
        for _ in range(20):
            preemption.start_again("it broke")
        preemption.note_progress()
    assert len(starts) == 60


def test_without_a_signal_the_exit_code_is_0():
    assert preemption.StopSignal().exit_code == 0
