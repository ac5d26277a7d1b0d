"""The speed of the input pipeline alone, and the networks that the bare loop knows.

`tests/benchmark_test.py` runs the whole measurement.
"""

import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.benchmarks import step
from tests import tiny


def test_other_networks_than_the_bare_loops_are_refused():
    with (
        flagsaver.as_parsed(dataset="digits", peers="resnet8,wrn_10_1"),
        pytest.raises(UserError, match=r"resnet8,wrn_10_1 .*two CIFAR ResNets only"),
    ):
        step.measure_step(rounds=1, steps=1)


def test_the_input_of_a_small_data_set_ends_early(monkeypatch):
    monkeypatch.setattr(step, "_EPOCHS", 2)
    assert step.measure_input(tiny.dataset(train=64, test=16), batch_size=16) > 0
