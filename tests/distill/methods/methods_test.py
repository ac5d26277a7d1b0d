"""What holds for every row of the METHODS table."""

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from tests import tiny
from tests.flags_test import ROOT


def build(name):
    row = methods.METHODS[name]
    peers = tiny.branches(2) if name == "one" else tiny.peers("small", "small_wide")
    teachers = tiny.frozen("small_wide") if row.offline else ()
    with flagsaver.as_parsed(method=name):
        return tiny.compiled(methods.method_from_flags(peers, teachers))


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_is_four_places(name):
    """Its file, its row, its flag file and its test; docs/adding_a_method.md."""
    folder = "distill/methods"
    source = ROOT / "afd_tf" / folder / f"{name}.py"
    test = ROOT / "tests" / folder / f"{name}_test.py"
    flag_file = ROOT / "flags" / "table" / f"resnet32_{name}.cfg"
    for path in (source, test, flag_file):
        assert path.is_file(), path
    # And nowhere else: no file of the product asks which method it is.
    for path in (ROOT / "afd_tf").rglob("*.py"):
        if path not in (source, ROOT / "afd_tf" / folder / "__init__.py"):
            assert f'== "{name}"' not in path.read_text(), path


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_step_moves_what_its_objectives_name_and_all_is_named(name):
    method = build(name)
    frozen = [v for teacher in method.frozen_teachers for v in teacher.variables]
    untouched = tiny.values(frozen)
    everything = method.objectives
    kinds = {objective.loss for objective in everything}
    trainable = method.trainable_variables
    named = {id(v) for objective in everything for v in objective.variables}
    assert {id(v) for v in trainable} == named
    for kind in sorted(kinds):
        method.objectives = [o for o in everything if o.loss == kind]
        method.warming_up = kind in ("paraphraser", "adaptation")
        own = {id(v) for o in method.objectives for v in o.variables}
        before = tiny.values(trainable)
        # MEAL asks the first objective for the step.
        method.objectives.sort(key=lambda objective: objective.name)
        metrics = method.take_step(tiny.batch())
        assert all(np.isfinite(value) for value in metrics.values())
        for old, variable in zip(before, trainable, strict=True):
            moved = not np.array_equal(old, variable.numpy())
            if id(variable) in own:
                # A ReLU of a tiny discriminator may be dead, and its bias 0.
                assert moved or name == "meal", (kind, variable.path)
            else:
                assert not moved, (kind, variable.path)
    for old, variable in zip(untouched, frozen, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_a_teacher_is_for_offline_methods_only():
    with (
        flagsaver.as_parsed(method="dml"),
        pytest.raises(UserError, match="take one of afd_offline, attention_transfer"),
    ):
        methods.method_from_flags(tiny.peers("small"), tiny.frozen("small"))
    with (
        flagsaver.as_parsed(method="meal"),
        pytest.raises(UserError, match="give its run directory as --teacher"),
    ):
        methods.method_from_flags(tiny.peers("small"))


def test_evaluation_leaves_everything_alone():
    for name in ("afd", "ktan", "one"):
        method = build(name)
        before = tiny.values(method.variables)
        method.test_step({**tiny.batch(), "weight": tf.ones([8])})
        accuracies = {id(v) for m in method.accuracies.values() for v in m.variables}
        for old, variable in zip(before, method.variables, strict=True):
            if id(variable) not in accuracies:
                np.testing.assert_array_equal(old, variable.numpy())
