"""Runs found in directories, the labels of their methods, and their commands."""

import json

import pytest
from absl import flags

from afd_tf.analysis import finished_runs
from afd_tf.analysis.finished_runs import find_runs
from afd_tf.base.errors import UserError
from afd_tf.base.run_flags import identifying_names
from afd_tf.distill.methods import METHODS
from tests.analysis import logs


def label(tmp_path, **values) -> str:
    (run,) = find_runs([logs.write(tmp_path / "run", **values)]).finished
    return run.label()


def test_directories_are_searched_and_each_run_counts_once(tmp_path):
    logs.write(tmp_path / "a" / "deep" / "one")
    logs.write(tmp_path / "a" / "two")
    logs.write(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    found = find_runs([tmp_path / "a" / "two", tmp_path / "a", tmp_path / "link"])
    names = [run.directory.name for run in found.finished]
    assert names == ["two", "one", "link"]
    assert found.unfinished == []
    (run,) = find_runs([tmp_path / "b"]).finished
    assert (run.method, run.seed, run.peers) == ("afd", 0, "resnet20,resnet8")
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert run.environment == logs.ENVIRONMENT


def test_unfinished_runs_are_set_apart(tmp_path):
    logs.write(tmp_path / "whole")
    (logs.write(tmp_path / "stopped") / "summary.json").unlink()
    # Extended by another --epochs: the summary is from before.
    begun = logs.write(tmp_path / "extended")
    text = (begun / "flags.cfg").read_text()
    (begun / "flags.cfg").write_text(text.replace("--epochs=2", "--epochs=4"))
    longer = logs.write(tmp_path / "longer")
    with (longer / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3}) + "\n")
    # With --patience it may have ended early.
    early = logs.write(tmp_path / "patient", patience=3)
    text = (early / "flags.cfg").read_text()
    (early / "flags.cfg").write_text(text.replace("--epochs=2", "--epochs=9"))
    found = find_runs([tmp_path])
    assert [run.directory.name for run in found.finished] == ["patient", "whole"]
    names = {path.name for path in found.unfinished}
    assert names == {"stopped", "extended", "longer"}
    with pytest.raises(UserError, match=r"no run is finished: .*stopped"):
        find_runs([tmp_path / "stopped"])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{", "summary.json is damaged"),
        ("summary.json", '{"epochs": 2}', "lacks dataset, method, peers, seed, seco"),
        ("environment.json", "no", "environment.json is damaged"),
        ("flags.cfg", "--method=afd\n", "lacks --seed"),
        ("flags.cfg", "--method=x\n--seed=0\n--peers=a\n", "the method 'x'"),
        ("flags.cfg", "--method=afd\n--seed=a\n--peers=b\n", "cannot be read"),
    ],
)
def test_damaged_files_are_named(file, content, message, tmp_path):
    logs.write(tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        find_runs([tmp_path])
    assert str(tmp_path / "run") in str(error.value)


def test_what_holds_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run is given"):
        find_runs([])
    with pytest.raises(UserError, match="nowhere is no directory"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="holds no run"):
        find_runs([tmp_path])


def test_variants_of_a_method_have_labels_of_their_own(tmp_path):
    assert label(tmp_path) == "afd"
    # A flag that did not exist yet is at its default, which may be the method's.
    assert label(tmp_path, temperature=None, topology="cyclic") == "afd"
    assert label(tmp_path, topology="mutual") == "afd --topology=mutual"
    assert label(tmp_path, method="dml", topology="mutual") == "dml"
    assert label(tmp_path, method="kd", temperature=4.0) == "kd"
    assert label(tmp_path, method="one", own_stages=1) == "one"
    expected = "afd --afd_decay_only --temperature=4.0"
    assert label(tmp_path, afd_decay_only="true", temperature=4.0) == expected
    assert label(tmp_path, temperature_squared="false") == (
        "afd --notemperature_squared"
    )
    # The rest of the recipe and the places are no part of it.
    assert label(tmp_path, learning_rate=0.3, epochs=5, data_dir="/b", seed=4) == "afd"
    (run,) = find_runs([tmp_path / "run"]).finished
    assert run.label() == "afd"


def test_every_flag_of_every_method_tells_variants_apart(tmp_path):
    own = finished_runs.teaching_flags()
    prefixes = {name.partition("_")[0] for name in METHODS} - {"dml", "independent"}
    by_name = {
        name
        for name in identifying_names()
        if name.startswith(tuple(f"{prefix}_" for prefix in prefixes))
    }
    assert by_name <= own
    assert {"temperature", "logit_weight", "teacher", "topology", "own_stages"} <= own
    shared = {"learning_rate", "epochs", "seed", "peers", "method", "dataset"}
    assert own.isdisjoint(shared)


def test_flags_of_one_table_are_decided_by_module(tmp_path):
    logs.write(tmp_path / "run", formats="tflite", removed="1", report="true")
    (run,) = find_runs([tmp_path]).finished
    names = finished_runs.separating_flags([run])
    # One that is not known any more identified the run when it began.
    assert names == {"dataset", "epochs", "batch_size", "removed"}


def test_the_command_repeats_the_run(tmp_path):
    logs.write(tmp_path, seed=3, afd_decay_only="true", nesterov="false", augment="x y")
    (run,) = find_runs([tmp_path]).finished
    assert run.command() == (
        "python -m afd_tf.train --dataset=digits --peers=resnet20,resnet8 --method=afd "
        "--afd_decay_only '--augment=x y' --batch_size=64 --epochs=2 --seed=3"
    )


def test_defaults_are_those_before_any_command_changed_them(tmp_path):
    before = flags.FLAGS["learning_rate"].default
    try:
        flags.FLAGS.set_default("learning_rate", 0.7)
        logs.write(tmp_path, learning_rate=0.7)
        (run,) = find_runs([tmp_path]).finished
        assert "--learning_rate=0.7" in run.command()
    finally:
        flags.FLAGS.set_default("learning_rate", before)
