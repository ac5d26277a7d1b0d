"""Training costs beside a baseline, with workers that answer, refuse or die."""

import sys
from pathlib import Path

import pytest

from afd_tf.base.errors import UserError
from afd_tf.benchmarks import training_cost

# A worker without TensorFlow. It leaves a file in a folder when it starts; `kd` refuses
# its flags, and `alignment` executes in its second round what the environment says.
FAKE = """
import json, os, pathlib, sys
name = sys.argv[-1].partition("=")[2]
folder = pathlib.Path(os.environ["FAKES"])
(folder / f"{name}_{os.getpid()}").touch()
def say(values):
    print(json.dumps(values), flush=True)
if name == "kd":
    say({"refused": "no kd today"})
    sys.exit(0)
scale = 1 if name == "independent" else 3
say({"students": [name], "frozen_teachers": [], "trained_parameters": 10 * scale,
     "weights_in_memory": 20, "multiply_adds": 30})
for number, line in enumerate(sys.stdin):
    with open(folder / "order", "a") as order:
        order.write(name + "\\n")
    if name == "alignment" and number:
        print("warming up\\nOops: it broke\\n", file=sys.stderr)
        exec(os.environ["LAST_DEED"])
    steps = json.loads(line)["steps"]
    say({"seconds": steps * scale * (1 + number), "peak_memory": scale})
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKES", str(tmp_path))
    return tmp_path


def running(folder: Path) -> list[str]:
    """The names of the workers that have started and not ended."""
    return sorted(
        path.name.split("_")[0]
        for path in folder.glob("*_*")
        if Path("/proc", path.name.split("_")[1]).exists()
    )


def compare(*names, baseline="independent", rounds=3, steps=2):
    def command(name):
        return [sys.executable, "-c", FAKE, f"--method={name}"]

    return training_cost.compare_training_cost(names, baseline, command, rounds, steps)


def test_each_worker_is_interleaved_with_the_baseline(fakes, capfd):
    results = compare("dml", "kd", "independent")
    assert list(results) == ["dml", "kd", "independent"]
    assert results["kd"] is None
    assert "kd is left out: no kd today" in capfd.readouterr().err
    dml, alone = results["dml"], results["independent"]
    assert dml["seconds"] == [6, 12, 18]
    # The baseline's worker goes on to the next method.
    assert dml["baseline_seconds"] == [2, 4, 6]
    assert alone["baseline_seconds"] == [8, 10, 12]
    assert alone["seconds"] == [2, 4, 6]
    assert dml["relative"] == {
        "trained_parameters": 3.0,
        "weights_in_memory": 1.0,
        "multiply_adds": 1.0,
        "step_time": {"median": 3.0, "min": 3.0, "max": 3.0},
        "peak_memory": 3.0,
    }
    # Of the ratios of each round, not the ratio of medians.
    assert alone["relative"]["step_time"] == {"median": 0.4, "min": 0.25, "max": 0.5}
    order = (fakes / "order").read_text().split()
    # The order is reversed in every other round.
    assert order[:4] == ["dml", "independent", "independent", "dml"]
    assert len(order) == 12
    assert running(fakes) == []


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("sys.exit(3)", "alignment ended with exit code 3; .*stderr: Oops: it broke$"),
        ("os.kill(os.getpid(), 9)", "with signal 9; .*stderr: Oops: it broke$"),
    ],
)
def test_a_dead_worker_is_reported_with_its_last_line(
    fakes, monkeypatch, deed, message
):
    monkeypatch.setenv("LAST_DEED", deed)
    with pytest.raises(UserError, match=message) as raised:
        compare("dml", "alignment", "afd")
    assert "\n" not in str(raised.value)
    # Nor was afd begun.
    assert {path.name.split("_")[0] for path in fakes.glob("*_*")} == {
        "independent",
        "dml",
        "alignment",
    }
    assert running(fakes) == []


def test_a_baseline_that_refuses_is_a_mistake(fakes):
    with pytest.raises(UserError, match=r"^no kd today$"):
        compare("dml", baseline="kd")
    assert running(fakes) == []


def test_the_table_of_methods():
    measured = {
        "afd": {
            "students": ["a", "b"],
            "frozen_teachers": [],
            "trained_parameters": 1_250_000,
            "weights_in_memory": 1_500_000,
            "multiply_adds": 4_000_000,
            "peak_memory": 2_000_000_000,
            "relative": {
                "trained_parameters": 1.25,
                "weights_in_memory": 1.5,
                "multiply_adds": 1.0,
                "step_time": {"median": 1.104, "min": 1.06, "max": 1.2},
                "peak_memory": 1.333,
            },
        },
        "one": None,
    }
    *_, rule, row = training_cost.cost_table(
        measured, "independent", "methods"
    ).splitlines()
    assert row == (
        "| `afd` | a, b |  | 1.25 M (1.25) | 1.50 M (1.50) | 4.00 M (1.00) "
        "| 1.10 (1.06, 1.20) | 2.00 GB (1.33) |"
    )
    assert rule.count("|") == row.count("|")
    measured["afd"]["relative"]["peak_memory"] = None
    assert training_cost.cost_table(measured, "independent", "methods").endswith(
        "(1.06, 1.20) | unknown |"
    )
