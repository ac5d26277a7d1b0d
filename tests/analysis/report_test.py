"""The files of a report: written together or not at all, and what is refused."""

import json

import pytest

from afd_tf.analysis import report
from afd_tf.base.errors import UserError
from tests.analysis import logs


def test_it_writes_three_files_and_says_what_it_left_out(tmp_path, capsys):
    logs.write(tmp_path / "runs" / "a", metrics=[{"epoch": 2}])
    (logs.write(tmp_path / "runs" / "b", seed=1) / "summary.json").unlink()
    result = report.write_report([tmp_path / "runs"], tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert result == {
        "output": str(out),
        "files": [str(out / n) for n in ("report.html", "tables.md", "tables.json")],
        "runs": 1,
        "unfinished": [str(tmp_path / "runs" / "b")],
    }
    assert sorted(map(str, out.iterdir())) == sorted(result["files"])
    assert capsys.readouterr().err == (
        f"{tmp_path / 'runs' / 'b'} is not finished: left out.\n"
    )
    (table,) = json.loads((out / report.JSON).read_text())["tables"]
    assert table["rows"][0]["accuracy"]["ensemble"]["values"] == [0.55]
    # The same logs give the same files, over a report that is there already.
    before = [path.read_bytes() for path in sorted(out.iterdir())]
    report.write_report([tmp_path / "runs"], out)
    assert [path.read_bytes() for path in sorted(out.iterdir())] == before


def test_a_report_within_the_runs_is_no_run(tmp_path):
    logs.write(tmp_path / "a", metrics=[{"epoch": 2}])
    for _ in range(2):
        result = report.write_report([tmp_path], tmp_path / report.FOLDER)
        assert result["runs"] == 1


def test_mistakes_write_nothing(tmp_path):
    logs.write(tmp_path / "a")
    logs.write(tmp_path / "b", seed=1, epochs=3)
    for settings, message in (
        ({}, "do not belong in one table: --epochs is 2 in"),
        ({"group_by": ["x"]}, "unknown flag of --group_by"),
        ({"baselines": ["x"], "group_by": ["epochs"]}, "unknown baseline 'x'"),
    ):
        with pytest.raises(UserError, match=message) as error:
            report.write_report([tmp_path], tmp_path / "out", **settings)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot write to"):
        report.write_report([tmp_path / "a"], tmp_path / "a" / "flags.cfg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_run_whose_images_are_gone_has_the_rest(tmp_path, digits, capsys):
    run = logs.write(tmp_path / "a", metrics=[{"epoch": 2}])
    (run / "dataset.json").write_text(json.dumps(digits.info.to_json()))
    (run / "checkpoints" / "step_000000001").mkdir(parents=True)
    report.write_report([run], tmp_path / "out", images=True)
    text = (tmp_path / "out" / report.PAGE).read_text()
    assert "is damaged" in text and "Grad-CAM" not in text
    assert "without the test images" in capsys.readouterr().err
