"""The worker that trains a method: sizes counted by hand, flags, and its end."""

import json
import subprocess
import sys
import time

import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.benchmarks import training_worker
from afd_tf.distill import methods
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


@pytest.mark.parametrize("name", COUNTS)
def test_sizes_are_those_counted_by_hand(name):
    entry = methods.METHODS[name]
    peers = tiny.branches(2) if name == "one" else tiny.peers("resnet8", "resnet8")
    teachers = tiny.frozen("resnet8") if entry.offline else []
    with flagsaver.as_parsed(method=name):
        method = methods.method_from_flags(peers[len(teachers) :], teachers)
    description = training_worker.method_sizes(tiny.compiled(method), (8, 8, 3))
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


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_can_be_measured(name):
    with flagsaver.as_parsed(method=name, peers="resnet8,resnet8"):
        method = training_worker.build_from_flags(tiny.info(), steps_per_epoch=3)
    offline = methods.METHODS[name].offline
    assert len(method.peers) == 2 - offline
    assert [teacher.trainable for teacher in method.frozen_teachers] == [
        False
    ] * offline
    # The steps that are measured are not those of a warm-up.
    assert not method.warming_up


def test_the_last_peer_is_the_teacher():
    with flagsaver.as_parsed(method="kd", peers="resnet8,resnet14,resnet20"):
        method = training_worker.build_from_flags(tiny.info(), steps_per_epoch=3)
    assert [peer.name for peer in method.peers] == ["resnet8", "resnet14"]
    assert [teacher.name for teacher in method.frozen_teachers] == ["resnet20"]
    with (
        flagsaver.as_parsed(method="kd", peers="resnet8"),
        pytest.raises(UserError, match="name a student before it"),
    ):
        training_worker.build_from_flags(tiny.info(), steps_per_epoch=3)


def test_the_method_may_turn_auto_clustering_on(monkeypatch):
    compiled = []
    monkeypatch.setattr(training_worker, "allow_auto_clustering", compiled.append)
    with flagsaver.as_parsed(method="dml", peers="resnet8,resnet8", jit_compile="true"):
        method = training_worker.build_from_flags(tiny.info(), steps_per_epoch=3)
    assert compiled == [method]
    assert method.execution.jit_compile


def test_steps_that_end_early_are_no_measurement():
    settings = {"dataset": "digits", "batch_size": "8", "peers": "resnet8,resnet8"}
    with flagsaver.as_parsed(**settings, method="independent", learning_rate="1e38"):
        _, take_steps = training_worker.prepare_from_flags()
        with pytest.raises(UserError, match="give a smaller --learning_rate"):
            take_steps(3)


def test_the_given_flags_start_a_worker_and_are_reported_without_paths():
    given = {"dataset": "digits", "batch_size": "8", "remat": "true"}
    with flagsaver.as_parsed(
        **given, strategy="one", cache_dir="/cache", data_dir="/data", download="false"
    ):
        _, _, module, subcommand, *flags = training_worker.command_from_flags(
            "afd_tf.benchmark", "--method=dml"
        )
        assert training_worker.reported_flags() == {**given, "strategy": "one"}
    assert (module, subcommand) == ("afd_tf.benchmark", "worker")
    assert flags[-1] == "--method=dml"
    assert set(flags[:-1]) == {
        "--dataset=digits",
        "--batch_size=8",
        "--remat=true",
        "--strategy=one",
        "--cache_dir=/cache",
        "--data_dir=/data",
        "--download=false",
    }


def test_a_worker_stops_in_the_middle_of_a_request(tmp_path):
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
