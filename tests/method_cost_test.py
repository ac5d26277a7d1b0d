"""What methods cost: counts by hand, and workers that come, answer and go."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl.testing import flagsaver

from afd_tf import distill, method_cost
from afd_tf.errors import UserError
from tests import tiny

# ResNet-8 for 8 x 8 x 3 pixels of 5 classes, by hand: convolutions, then scales and
# shifts of their normalizations.
STEM = 9 * 3 * 16 + 2 * 16
STAGE_1 = 2 * 9 * 16 * 16 + 2 * 2 * 16
STAGE_2 = 9 * 16 * 32 + 9 * 32 * 32 + 16 * 32 + 3 * 2 * 32
STAGE_3 = 9 * 32 * 64 + 9 * 64 * 64 + 32 * 64 + 3 * 2 * 64
HEAD = 64 * 5 + 5
SHARED = STEM + STAGE_1 + STAGE_2
BRANCH = STAGE_3 + HEAD
PEER = SHARED + BRANCH
# As many moving statistics as scales and shifts.
MOVING_SHARED = 2 * 16 + 2 * 2 * 16 + 3 * 2 * 32
MOVING_BRANCH = 3 * 2 * 64
MOVING = MOVING_SHARED + MOVING_BRANCH
# Positions times weights: 8 x 8, 4 x 4 and 2 x 2.
SHARED_ADDS = 64 * 9 * (3 * 16 + 2 * 16 * 16) + 16 * (9 * (16 * 32 + 32 * 32) + 16 * 32)
BRANCH_ADDS = 4 * (9 * (32 * 64 + 64 * 64) + 32 * 64) + 64 * 5
PEER_ADDS = SHARED_ADDS + BRANCH_ADDS
# Convolution, normalization, and one score of what is left of 2 x 2.
DISCRIMINATOR = 9 * 64 * 64 + 2 * 64 + 64 + 1
# Dense from the last shared map to two branches, and its normalization.
GATE = 32 * 2 + 2 + 2 * 2

COUNTS = {
    "independent": (2 * PEER, 2 * (PEER + MOVING), 2 * PEER_ADDS),
    "dml": (2 * PEER, 2 * (PEER + MOVING), 2 * PEER_ADDS),
    "afd": (
        2 * (PEER + DISCRIMINATOR),
        2 * (PEER + MOVING + DISCRIMINATOR + 2 * 64),
        2 * PEER_ADDS,
    ),
    # A student and a frozen teacher.
    "kd": (PEER, 2 * (PEER + MOVING), 2 * PEER_ADDS),
    "one": (
        SHARED + 2 * BRANCH + GATE,
        SHARED + MOVING_SHARED + 2 * (BRANCH + MOVING_BRANCH) + GATE + 2 * 2,
        SHARED_ADDS + 2 * BRANCH_ADDS,
    ),
}

# A worker without TensorFlow. It notes in a folder that it is there; `kd` refuses, and
# `alignment` does in its second turn what the environment says.
FAKE = """
import json, os, pathlib, signal, sys, time
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
    with open(folder / "turns", "a") as turns:
        turns.write(name + "\\n")
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
    """The names of the workers that noted themselves and still are there."""
    return sorted(
        path.name.split("_")[0]
        for path in folder.glob("*_*")
        if Path("/proc", path.name.split("_")[1]).exists()
    )


def compare(*names, baseline="independent", rounds=3, steps=2):
    def command(name):
        return [sys.executable, "-c", FAKE, f"--method={name}"]

    return method_cost.compare(names, baseline, command, rounds, steps)


@pytest.mark.parametrize("name", COUNTS)
def test_sizes_are_those_counted_by_hand(name):
    row = distill.METHODS[name]
    peers = tiny.branches(2) if name == "one" else tiny.peers("resnet8", "resnet8")
    teachers = tiny.frozen("resnet8") if row.offline else []
    with flagsaver.as_parsed(method=name):
        method = distill.method_from_flags(peers[len(teachers) :], teachers)
    description = method_cost.describe(tiny.compiled(method), (8, 8, 3))
    assert description == {
        "students": ["resnet8"] * (2 - len(teachers)),
        "frozen_teachers": ["resnet8"] * len(teachers),
        **dict(
            zip(
                ("trained_parameters", "weights_in_memory", "multiply_adds"),
                COUNTS[name],
                strict=True,
            )
        ),
    }


@pytest.mark.parametrize("name", distill.METHODS)
def test_every_method_can_be_measured(name):
    with flagsaver.as_parsed(method=name, peers="resnet8,resnet8"):
        method = method_cost.build_from_flags(tiny.info(), steps_per_epoch=3)
    offline = distill.METHODS[name].offline
    assert len(method.peers) == 2 - offline
    assert [teacher.trainable for teacher in method.frozen_teachers] == [
        False
    ] * offline
    # What is measured comes after a preparation.
    assert not method.preparing


def test_the_last_peer_is_the_teacher():
    with flagsaver.as_parsed(method="kd", peers="resnet8,resnet14,resnet20"):
        method = method_cost.build_from_flags(tiny.info(), steps_per_epoch=3)
    assert [peer.name for peer in method.peers] == ["resnet8", "resnet14"]
    assert [teacher.name for teacher in method.frozen_teachers] == ["resnet20"]
    with (
        flagsaver.as_parsed(method="kd", peers="resnet8"),
        pytest.raises(UserError, match="name a student before it"),
    ):
        method_cost.build_from_flags(tiny.info(), steps_per_epoch=3)


def test_a_turn_that_ends_early_is_no_measurement():
    settings = {"dataset": "digits", "batch_size": "8", "peers": "resnet8,resnet8"}
    with flagsaver.as_parsed(**settings, method="independent", learning_rate="1e38"):
        _, take_steps = method_cost.prepare_from_flags()
        with pytest.raises(UserError, match="give a smaller --learning_rate"):
            take_steps(3)


def test_workers_take_turns(fakes, capfd):
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
    turns = (fakes / "turns").read_text().split()
    # The other begins each time.
    assert turns[:4] == ["dml", "independent", "independent", "dml"]
    assert len(turns) == 12
    assert running(fakes) == []


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("sys.exit(3)", "alignment ended with exit code 3; .*said: Oops: it broke$"),
        ("os.kill(os.getpid(), 9)", "with signal 9; .*said: Oops: it broke$"),
    ],
)
def test_a_dead_worker_is_told_with_its_last_line(fakes, monkeypatch, deed, message):
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


def test_no_worker_is_left_after_an_interrupt(fakes, monkeypatch):
    monkeypatch.setenv(
        "LAST_DEED", "os.kill(os.getppid(), signal.SIGINT); time.sleep(600)"
    )
    # A shell's job in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            compare("alignment")
    finally:
        signal.signal(signal.SIGINT, before)
    assert running(fakes) == []


def test_no_worker_is_left_when_its_starter_is_killed(fakes):
    script = (
        "import sys; from afd_tf import method_cost; method_cost.compare("
        "['alignment'], 'independent', lambda name: "
        "[sys.executable, '-c', sys.argv[1], f'--method={name}'], 9, 1)"
    )
    code = subprocess.run(
        [sys.executable, "-c", script, FAKE],
        env={**os.environ, "LAST_DEED": "os.kill(os.getppid(), 9); sys.stdin.read()"},
        check=False,
    ).returncode
    assert code == -9
    deadline = time.time() + 20
    while running(fakes) and time.time() < deadline:
        time.sleep(0.1)
    assert running(fakes) == []


def test_a_worker_stops_in_the_middle_of_a_turn(tmp_path):
    """When its stdin is closed: the process that asked is gone."""
    flag_values = [
        "--method=dml",
        "--dataset=digits",
        "--peers=resnet8,resnet8",
        "--batch_size=16",
        f"--cache_dir={tmp_path}",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "afd_tf.benchmark", "worker", *flag_values],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert json.loads(worker.stdout.readline())["students"] == ["resnet8"] * 2
        worker.stdin.write('{"steps": 2}\n{"steps": 1000000}\n')
        worker.stdin.flush()
        answer = json.loads(worker.stdout.readline())
        assert answer["seconds"] > 0
        worker.stdin.close()
        began = time.time()
        assert worker.wait(timeout=30) == 0
        assert time.time() - began < 5
        assert worker.stdout.read() == ""
