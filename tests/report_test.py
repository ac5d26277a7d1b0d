"""The command, and the tables in the README, which it makes from results/."""

import json
import re
import shlex
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf import report
from afd_tf.analysis import curves
from tests.analysis import logs

ROOT = Path(__file__).absolute().parents[1]
BLOCK = re.compile(
    r"<!-- report: (.*?) -->\n\n(.*?)\n<!-- end of report -->\n", re.DOTALL
)


def run_report(*arguments):
    with flagsaver.flagsaver():
        left = flags.FLAGS(["report", *map(str, arguments)])
        report.main(left)


def blocks() -> list:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    pages += (ROOT / "results").rglob("*.md")
    return [
        pytest.param(*found, id=f"{page.name}: {found[0]}")
        for page in pages
        for found in BLOCK.findall(page.read_text())
    ]


@pytest.mark.parametrize(("arguments", "expected"), blocks())
def test_the_tables_are_those_of_the_logs(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # The curves are not compared.
    monkeypatch.setattr(curves, "sections", lambda table: [])
    run_report(*shlex.split(arguments), f"--output={tmp_path}")
    assert (tmp_path / "tables.md").read_text() == expected


def test_every_marker_in_the_readme_is_read():
    text = (ROOT / "README.md").read_text()
    assert text.count("<!-- report: ") == len(BLOCK.findall(text)) >= 2
    # No other table of accuracies.
    assert text.count("| ensemble |") == len(re.findall("<!-- report|Difference", text))


def test_the_last_line_is_json_and_the_place_has_a_default(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curves, "sections", lambda table: [])
    logs.write(tmp_path / "runs" / "a", method="dml")
    logs.write(tmp_path / "runs" / "b", epochs=3)
    run_report("runs", "--group_by=epochs", "--baseline=dml", "--baseline=afd")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["output"] == "runs/report" and result["runs"] == 2
    (first, second) = json.loads(Path("runs/report/tables.json").read_text())["tables"]
    assert (first["group"], first["baselines"]) == ({"epochs": "2"}, ["dml"])
    assert (second["group"], second["baselines"]) == ({"epochs": "3"}, ["afd"])
    # Of several, the working directory.
    run_report("runs/a", "runs/b", "--group_by=epochs")
    assert json.loads(capsys.readouterr().out)["output"] == "report"
    assert Path("report/report.html").exists()
