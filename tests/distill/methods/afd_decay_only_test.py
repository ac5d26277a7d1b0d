"""The control of AFD: Adam with nothing but its decay."""

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from afd_tf.distill.methods.afd_decay_only import DecayOnlyControl
from afd_tf.distill.methods.afd_unpaired import UnpairedFeatureDistillation
from tests import tiny
from tests.distill.methods.afd_test import build


def test_decay_only_is_adam_on_the_decay_alone():
    method = build(["small", "small"], DecayOnlyControl)
    method.objectives = [o for o in method.objectives if o.name == "peer_0/feature"]
    (objective,) = method.objectives
    before = tiny.values(objective.variables)
    metrics = method.take_step(tiny.batch())
    assert metrics["peer_0/gradient_norm_feature"] == 0.0
    for old, variable in zip(before, objective.variables, strict=True):
        # The first step of Adam: the learning rate, against the sign of the decay.
        decay = 0.1 * old
        moved = variable.value.numpy() - old
        expected = -1e-3 * decay / (np.abs(decay) + 1e-8)
        np.testing.assert_allclose(moved, expected, atol=2e-7)


def test_flags_choose_the_variant():
    peers = tiny.peers("small", "small")
    for flag, variant in (
        ("afd_decay_only", DecayOnlyControl),
        ("afd_unpaired", UnpairedFeatureDistillation),
    ):
        with flagsaver.as_parsed(**{flag: "true"}, method="afd"):
            assert type(methods.method_from_flags(peers)) is variant
    with (
        flagsaver.as_parsed(afd_unpaired="true", afd_decay_only="true", method="afd"),
        pytest.raises(UserError, match="two variants of afd: give one"),
    ):
        methods.method_from_flags(peers)
