"""FitNets against NumPy, in one stage and in two."""

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from tests import tiny


def build(**flags):
    teachers = tiny.frozen("wrn_10_2")
    with flagsaver.as_parsed(method="fitnets", **flags):
        return methods.method_from_flags(tiny.peers("resnet8", "wrn_10_1"), teachers)


def hint(method, number, outputs):
    student = method.regressors[number](outputs[number].taps["stage_2"], training=True)
    assert student.shape == outputs[-1].taps["stage_2"].shape
    taught = outputs[-1].taps["stage_2"].numpy()
    difference = student.numpy().astype(np.float64) - taught
    return (difference**2).mean(axis=(1, 2, 3))


def test_one_stage_against_numpy():
    method = build()
    labels = tiny.batch()["label"]
    outputs = tiny.planted(*method.peers, *method.frozen_teachers)
    values, _ = method.compute_losses(labels, outputs)
    for number in range(2):
        entropy = tiny.cross_entropy(labels, outputs[number].logits)
        np.testing.assert_allclose(
            values[f"peer_{number}/logit"],
            entropy + 100 * hint(method, number, outputs),
            rtol=1e-4,
        )


def test_two_stages():
    method = build(fitnets_hint_epochs="3", logit_weight="0.9", label_weight="0.1")
    assert method.warmup_epochs == 3
    tiny.compiled(method)
    batch = tiny.batch()
    # First the hint alone: it moves the regressor and the student up to the hint, and
    # runs nothing above it.
    method.warming_up = True
    variables = method.variables
    before = tiny.values(variables)
    metrics = method.take_step(batch)
    assert set(metrics) == {
        f"peer_{number}/{name}_hint"
        for number in (0, 1)
        for name in ("loss", "gradient_norm")
    }
    may_move = {
        id(v)
        for peer in method.peers
        for name in ("stem", "stage_1", "stage_2")
        for v in peer.body[name].variables
    } | {id(v) for layer in method.regressors for v in layer.variables}
    for variable, old in zip(variables, before, strict=True):
        moved = not np.array_equal(old, variable.numpy())
        assert moved == (id(variable) in may_move), variable.path
    # Then KD, without the hint.
    method.warming_up = False
    outputs = tiny.planted(*method.peers, *method.frozen_teachers)
    values, monitors = method.compute_losses(batch["label"], outputs)
    assert "peer_0/loss_hint" not in monitors
    divergence = tiny.divergence(outputs[-1].logits, outputs[0].logits, 4.0)
    entropy = tiny.cross_entropy(batch["label"], outputs[0].logits)
    np.testing.assert_allclose(
        values["peer_0/logit"], 0.1 * entropy + 0.9 * 16 * divergence, rtol=1e-5
    )
    outputs = [*method.hint_outputs(batch["image"]), outputs[-1]]
    losses, _ = method.hint_losses(batch["label"], outputs)
    np.testing.assert_allclose(
        losses["peer_0/hint"], hint(method, 0, outputs), rtol=1e-4
    )


def test_an_unknown_hint_is_refused():
    with pytest.raises(UserError, match=r"unknown map of .*Did you mean 'stage_"):
        build(fitnets_hint="stage_4")
