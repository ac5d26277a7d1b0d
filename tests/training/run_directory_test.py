"""The run directory: flags, metrics, and another run's directory."""

import json

import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.base.files import writing_to
from afd_tf.training import strategy
from afd_tf.training.run_directory import RunDirectory, read_flags, read_metrics
from tests import tiny

VALUES = {"method": "afd", "seed": "0", "augment": "auto", "data_dir": "/a"}


def begun(directory, values=VALUES):
    run_directory = RunDirectory(directory, values)
    run_directory.initialize(tiny.info())
    (directory / "checkpoints").mkdir(exist_ok=True)
    return run_directory


def test_flags_and_info_come_back(tmp_path):
    begun(tmp_path, {**VALUES, "run_dir": "/somewhere"})
    # Resolved values stay resolved; the place of the run is not part of it.
    assert read_flags(tmp_path) == {**VALUES, "augment": "none"}
    assert RunDirectory(tmp_path, VALUES).info == tiny.info()


def test_the_same_flags_continue_and_places_may_change(tmp_path):
    begun(tmp_path)
    assert strategy.STRATEGIES  # its flag is defined
    begun(tmp_path, {**VALUES, "data_dir": "/b", "strategy": "one"})


def test_another_run_is_refused_with_the_difference(tmp_path):
    begun(tmp_path)
    before = (tmp_path / "flags.cfg").read_text()
    with pytest.raises(UserError, match="--method was afd, is now dml, --temperature"):
        RunDirectory(tmp_path, {**VALUES, "method": "dml", "temperature": "2.0"})
    assert (tmp_path / "flags.cfg").read_text() == before


def test_a_directory_without_checkpoints_may_begin_anew(tmp_path):
    run_directory = RunDirectory(tmp_path, VALUES)
    run_directory.initialize(tiny.info())
    RunDirectory(tmp_path, {**VALUES, "method": "dml"}).initialize(tiny.info())
    assert read_flags(tmp_path)["method"] == "dml"


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path):
    run_directory = begun(tmp_path)
    for epoch in (1, 2, 3):
        run_directory.log_epoch(
            {"epoch": epoch, "step": epoch * 10, "test/a": epoch / 3}
        )
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 4, "st')  # cut off by a crash
    # A reader of a run that is going on leaves that line out.
    assert [line["epoch"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    run_directory.truncate_metrics(2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["test/a"] == 2 / 3


def test_an_unwritable_place_is_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Not a directory"):
        RunDirectory(tmp_path / "file" / "run", VALUES).initialize(tiny.info())
    with pytest.raises(UserError, match="No space left"), writing_to(tmp_path):
        raise OSError(28, "No space left on device")
    message = "{{node SaveV2}} /a/b.tmp; No space left on device [Op:SaveV2]"
    with (
        pytest.raises(UserError, match=f"to {tmp_path}: No space left on device. "),
        writing_to(tmp_path),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, message)
