"""The study command: its plan, what it refuses, and a small study from end to end."""

import json
import subprocess
import sys

import pytest
from absl.testing import flagsaver

from afd_tf import study
from afd_tf.base.errors import UserError
from afd_tf.training.run_queue import LOG

DIGITS = "--dataset=digits\n--peers=resnet8\n--epochs=1\n--batch_size=512\n"


def flag_file(directory, name, text):
    path = directory / f"{name}.cfg"
    path.write_text(text)
    return str(path)


def test_the_first_seed_of_all_flag_files_comes_first(tmp_path):
    configurations = study.read_configurations(
        [
            flag_file(tmp_path, "afd", "# A comment.\n--method=afd\n--epochs=3\n"),
            flag_file(tmp_path, "dml", "--method=dml\n"),
        ],
        ["--epochs=2", "--nodownload"],
    )
    runs = study.planned_runs(configurations, [4, 1], tmp_path / "out")
    assert [run.name for run in runs] == [
        "afd/seed4",
        "dml/seed4",
        "afd/seed1",
        "dml/seed1",
    ]
    assert runs[2].directory == tmp_path / "out" / "afd" / "seed1"
    # The flags of all runs stand behind those of the file, and win.
    assert runs[2].command[1:] == [
        *("-m", "afd_tf.train", "--method=afd", "--epochs=3", "--epochs=2"),
        *("--nodownload", "--seed=1", f"--run_dir={runs[2].directory}"),
    ]


@pytest.mark.parametrize(
    ("text", "common", "message"),
    [
        ("--seed=3\n", [], "--seed is set by the study for every run"),
        ("--run_dir=x\n", [], "--run_dir is set by the study for every run"),
        ("", ["--export_dir=x"], "with --export_dir all runs would write to one"),
        ("", ["epochs=3"], "'epochs=3' is not a flag: behind -- stand flags of"),
    ],
)
def test_flags_that_cannot_be_the_same_for_all_runs(text, common, message, tmp_path):
    path = flag_file(tmp_path, "a", text)
    with pytest.raises(UserError, match=f"^{message}"):
        study.read_configurations([path], common)


def test_flag_files_need_names_of_their_own(tmp_path):
    (tmp_path / "more").mkdir()
    paths = [
        flag_file(tmp_path, "a", "--epochs=1\n"),
        flag_file(tmp_path / "more", "a", "--epochs=2\n"),
    ]
    with pytest.raises(UserError, match="two of --flagfiles are named a"):
        study.read_configurations(paths, [])
    with pytest.raises(UserError, match="--flagfiles is missing"):
        study.read_configurations([], [])


@pytest.mark.parametrize("seeds", ["", "1,x", "-1", "1,1", "1.5", "²"])
def test_seeds_are_different_integers(seeds):
    with (
        flagsaver.flagsaver(seeds=seeds.split(",") if seeds else []),
        pytest.raises(UserError, match=f"--seeds={seeds} should be different integers"),
    ):
        study.seeds_from_flags()


def test_another_study_in_the_directory_is_refused(tmp_path):
    begun = {"a": ["--epochs=3", "--data_dir=x", "--nesterov"]}
    study.record_plan(tmp_path, begun)
    # Another place of the data, another order, and more flag files are the same study.
    study.record_plan(tmp_path, {"a": ["--nesterov=true", "--epochs=3"]})
    study.record_plan(tmp_path, {"b": ["--epochs=4"], **begun})
    assert json.loads((tmp_path / "study.json").read_text()).keys() == {"a", "b"}
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(UserError) as error:
        study.record_plan(tmp_path, {"b": ["--epochs=5", "--nonesterov"]})
    for text in (
        "a study in which b has other flags",
        "--epochs was 4, is now 5",
        "--nesterov was not given, is now false",
        "give another --output",
    ):
        assert text in str(error.value)
    assert (tmp_path / "study.json").read_bytes() == before


def test_flags_that_differ_tell_rows_apart():
    configurations = [
        ["--method=afd", "--epochs=3", "--ema=0.9", "--lr=1"],
        ["--method=dml", "--epochs=3", "--noema", "--lr=1", "--lr=2"],
    ]
    assert study.differing_flags(configurations) == ["ema", "lr"]


def test_a_study_goes_on_past_a_run_that_fails_and_ends_with_a_report(tmp_path):
    paths = [
        flag_file(tmp_path, "wrong", DIGITS + "--method=afdd\n"),
        flag_file(tmp_path, "alone", DIGITS + "--method=independent\n"),
        flag_file(tmp_path, "ema", DIGITS + "--method=independent\n--ema=0.9\n"),
    ]
    output = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "afd_tf.study", f"--flagfiles={','.join(paths)}"),
        *("--seeds=7", "--parallel=2", f"--output={output}"),
        *("--", "--weight_decay=0.001"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    assert "wrong/seed7: failed. Exit code 1" in result.stderr
    assert "unknown method 'afdd'" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        "error: 1 of 3 runs failed: wrong/seed7."
    )
    answer = json.loads(result.stdout.splitlines()[-1])
    assert answer == {
        "output": str(output),
        "failed": ["wrong/seed7"],
        "report": str(output / "report"),
    }
    assert (output / "report" / "report.html").exists()
    for name in ("alone", "ema"):
        summary = json.loads((output / name / "seed7" / "summary.json").read_text())
        assert summary["seed"] == 7
        assert "first step finished" in (output / name / "seed7" / LOG).read_text()
        flags = (output / name / "seed7" / "flags.cfg").read_text()
        assert "--weight_decay=0.001\n" in flags
