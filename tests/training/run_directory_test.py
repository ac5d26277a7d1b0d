"""The run directory: flags, metrics, and another run's directory."""

import dataclasses
import json

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import metadata

from afd_tf.base.errors import UserError
from afd_tf.base.files import writing_to
from afd_tf.base.flag_files import expand_flag_files
from afd_tf.training import numerics, strategy
from afd_tf.training.run_directory import (
    RunDirectory,
    read_flags,
    read_info,
    read_metrics,
    read_record,
)
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


def test_a_flag_that_did_not_exist_yet_is_at_its_default(tmp_path):
    begun(tmp_path)
    begun(tmp_path, {**VALUES, "label_smoothing": "0.0", "nesterov": "false"})
    with pytest.raises(UserError, match=r"--label_smoothing was 0\.0, is now 0\.1"):
        RunDirectory(tmp_path, {**VALUES, "label_smoothing": "0.1"})


def test_more_epochs_alone_extend_a_run(tmp_path):
    values = {**VALUES, "epochs": "3"}
    begun(tmp_path, values)
    assert RunDirectory(tmp_path, values).epochs_before is None
    assert RunDirectory(tmp_path, {**values, "epochs": "5"}).epochs_before == 3
    with pytest.raises(UserError, match="--epochs was 3, is now 5, --method was afd"):
        RunDirectory(tmp_path, {**values, "epochs": "5", "method": "dml"})


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


def test_tensorboard_has_the_scalars_and_the_hyperparameters(tmp_path):
    assert strategy.STRATEGIES and numerics.PRECISIONS  # their flags are defined
    values = {**VALUES, "batch_size": "16", "deterministic": "true", "strategy": "one"}
    run_directory = begun(tmp_path, {**values, "peers": "resnet8,resnet20"})
    for epoch in (1, 2):
        run_directory.log_epoch(
            {"epoch": epoch, "step": 3 * epoch, "test/a": epoch / 4}
        )
    # A run that goes on begins another file.
    begun(tmp_path, values | {"peers": "resnet8,resnet20"}).log_epoch(
        {"epoch": 3, "step": 9, "test/a": 0.75}
    )
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    steps = [event.step for event in events.Tensors("test/a")]
    assert steps == [3, 6, 9]
    numbers = [tf.make_ndarray(x.tensor_proto) for x in events.Tensors("test/a")]
    assert numbers == [0.25, 0.5, 0.75]

    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data
    assert content.plugin_name == metadata.PLUGIN_NAME
    session = metadata.parse_session_start_info_plugin_data(content.content)
    found = {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in session.hparams.items()
    }
    # Flags that say where or how are no hyperparameters.
    assert found == {
        "method": "afd",
        "seed": 0,
        "augment": "none",
        "batch_size": 16,
        "deterministic": True,
        "peers": "resnet8,resnet20",
    }


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


@pytest.mark.parametrize("path", ["a\nb", "a\r", " a", "a\udcff", "a\u2028"])
def test_flags_that_would_not_come_back_from_their_file_are_refused(path, tmp_path):
    values = {**VALUES, "dataset": f"folder:/data/{path}" if path[0] != " " else path}
    with pytest.raises(UserError, match=r"--dataset='.*' cannot be kept") as error:
        RunDirectory(tmp_path, values)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_flags_with_odd_letters_come_back(tmp_path):
    """Within a line, also those at which Python breaks lines of text."""
    for path in ("a b", "a\u2028b", "a\x0bb", "a\x85b", "猫", "a=b", "#", "--seed=3"):
        values = {**VALUES, "augment": "none", "dataset": f"folder:/data/{path}"}
        begun(tmp_path / path, values)
        assert read_flags(tmp_path / path) == values
        flag_file = f"--flagfile={tmp_path / path / 'flags.cfg'}"
        expected = [f"--{name}={text}" for name, text in sorted(values.items())]
        assert expand_flag_files([flag_file]) == expected


def test_names_of_any_bytes_come_back(tmp_path):
    names = ("a\nb", "caf\udce9", "猫", "")
    info = dataclasses.replace(tiny.info(), class_names=names)
    RunDirectory(tmp_path, VALUES).initialize(info)
    assert read_info(tmp_path).class_names == names
    assert (tmp_path / "dataset.json").read_bytes().decode("utf-8")


def test_metrics_that_a_crash_left_as_other_bytes_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n\xff\xfe\x00')
    assert read_metrics(tmp_path) == [{"epoch": 1}]


RECORD = {"format": 1, "images": [["train", "a", "a/1.png", "0" * 32]]}


def test_the_first_record_of_images_is_kept(tmp_path):
    run_directory = RunDirectory(tmp_path, VALUES)
    assert run_directory.record is None
    run_directory.initialize(tiny.info(), RECORD)
    again = RunDirectory(tmp_path, VALUES)
    assert again.record == RECORD
    again.initialize(tiny.info(), {**RECORD, "images": []})
    assert read_record(tmp_path) == RECORD
    # Digits, say, have none.
    begun(tmp_path / "other")
    assert read_record(tmp_path / "other") is None


def test_forms_of_one_folder_are_one_run_and_its_images_may_move(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {**VALUES, "dataset": "folder:photos"}
    run_directory = RunDirectory(tmp_path / "run", values)
    run_directory.initialize(tiny.info(), RECORD)
    (tmp_path / "run" / "checkpoints").mkdir()
    for form in ("folder:photos/", "folder:./photos", f"folder:{tmp_path}/photos"):
        RunDirectory(tmp_path / "run", {**values, "dataset": form})
    # Elsewhere: the images themselves decide, when they are opened.
    RunDirectory(tmp_path / "run", {**values, "dataset": "folder:moved"})
    with pytest.raises(UserError, match=r"--dataset was folder:.*, is now digits"):
        RunDirectory(tmp_path / "run", {**values, "dataset": "digits"})
