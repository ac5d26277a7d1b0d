"""The run directory: flags, metrics, and another run's directory."""

import json

import pytest
import tensorflow as tf

from afd_tf.errors import UserError
from afd_tf.journal import Journal, read_flags, writing_to
from tests import tiny

VALUES = {"method": "afd", "seed": "0", "augment": "auto", "data_dir": "/a"}


def begun(directory, values=VALUES):
    journal = Journal(directory, values)
    journal.begin(tiny.info())
    (directory / "checkpoints").mkdir(exist_ok=True)
    return journal


def test_flags_and_info_come_back(tmp_path):
    begun(tmp_path, {**VALUES, "run_dir": "/somewhere"})
    # What was resolved is kept resolved; where the run lies is not part of it.
    assert read_flags(tmp_path) == {**VALUES, "augment": "none"}
    assert Journal(tmp_path, VALUES).info == tiny.info()


def test_the_same_flags_continue_and_places_may_change(tmp_path):
    begun(tmp_path)
    begun(tmp_path, {**VALUES, "data_dir": "/b", "strategy": "one"})


def test_another_run_is_refused_with_the_difference(tmp_path):
    begun(tmp_path)
    before = (tmp_path / "flags.cfg").read_text()
    with pytest.raises(UserError, match="--method was afd, is now dml, --temperature"):
        Journal(tmp_path, {**VALUES, "method": "dml", "temperature": "2.0"})
    assert (tmp_path / "flags.cfg").read_text() == before


def test_a_directory_without_checkpoints_may_begin_anew(tmp_path):
    journal = Journal(tmp_path, VALUES)
    journal.begin(tiny.info())
    Journal(tmp_path, {**VALUES, "method": "dml"}).begin(tiny.info())
    assert read_flags(tmp_path)["method"] == "dml"


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path):
    journal = begun(tmp_path)
    for epoch in (1, 2, 3):
        journal.log_epoch({"epoch": epoch, "step": epoch * 10, "test/a": epoch / 3})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 4, "st')  # cut off by a crash
    journal.forget_after(2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["test/a"] == 2 / 3


def test_an_unwritable_place_is_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Not a directory"):
        Journal(tmp_path / "file" / "run", VALUES).begin(tiny.info())
    with pytest.raises(UserError, match="No space left"), writing_to(tmp_path):
        raise OSError(28, "No space left on device")
    message = "{{node SaveV2}} /a/b.tmp; No space left on device [Op:SaveV2]"
    with (
        pytest.raises(UserError, match=f"to {tmp_path}: No space left on device. "),
        writing_to(tmp_path),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, message)
