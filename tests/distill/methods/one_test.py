"""ONE: shared layers, gate, ramp and loss against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.distill.methods.dml import MutualLearning
from afd_tf.distill.methods.one import Gate, OnTheFlyEnsemble
from afd_tf.training.checkpoints import Checkpoints
from tests import tiny


def test_gate_by_hand():
    gate = Gate(3)
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 5)).astype(np.float32)
    output = gate(maps, training=True).numpy()
    kernel, bias = (v.numpy() for v in gate.dense.weights)
    values = maps.mean(axis=(1, 2)) @ kernel + bias
    normal = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)
    expected = tiny.softmax(np.maximum(normal, 0))
    np.testing.assert_allclose(output, expected, rtol=1e-4)


def expected_loss(method, labels, outputs, r):
    shared = outputs[0].taps["stage_2"]
    gates = method.gate(shared, training=True).numpy()
    logits = np.stack([output.logits for output in outputs], axis=1)
    together = (gates[:, :, None] * logits).sum(axis=1)
    loss = tiny.cross_entropy(labels, together)
    for branch in range(len(outputs)):
        loss = loss + tiny.cross_entropy(labels, logits[:, branch])
        loss = loss + r * 9 * tiny.divergence(together, logits[:, branch], 3.0)
    return loss


def test_the_loss_against_numpy_as_it_ramps_up():
    # A ramp of 2 of 4 epochs, of one step each.
    method = OnTheFlyEnsemble(tiny.branches(3), ramp_part=0.5)
    tiny.compiled(method, epochs=4, steps_per_epoch=1)
    labels, outputs = tiny.batch()["label"], tiny.planted(*method.peers)
    for epoch, r in enumerate((np.exp(-5), np.exp(-1.25), 1.0, 1.0)):
        method.objectives[0].optimizer.iterations.assign(epoch)
        values, _ = method.compute_losses(labels, outputs)
        np.testing.assert_allclose(
            values["ensemble/logit"],
            expected_loss(method, labels, outputs, r),
            rtol=1e-5,
        )


def test_the_ensemble_is_gated():
    method = tiny.compiled(OnTheFlyEnsemble(tiny.branches(2)))
    batch = {**tiny.batch(), "weight": tf.ones([8])}
    result = method.test_step(batch)
    outputs = method(batch["image"])
    gates = method.gate(outputs[0].taps["stage_2"]).numpy()
    together = gates[:, :1] * outputs[0].logits + gates[:, 1:] * outputs[1].logits
    right = np.argmax(together, axis=1) == batch["label"].numpy()
    np.testing.assert_allclose(result["ensemble/accuracy"], right.mean())


def test_shared_layers_run_once_and_are_the_same():
    method = tiny.compiled(OnTheFlyEnsemble(tiny.branches(3)))
    first, second, third = method.peers
    for name in ("stem", "stage_1", "stage_2"):
        assert first.body[name] is second.body[name] is third.body[name]
    assert first.body["stage_3"] is not second.body["stage_3"]
    assert first.classifier is not second.classifier
    batch = tiny.batch()
    (copy,) = tiny.branches(1)
    copy(batch["image"], training=True)
    method.take_step(batch)
    # Moved by one forward and not by three.
    for name in ("stem", "stage_2"):
        for own, expected in zip(
            first.body[name].non_trainable_variables,
            copy.body[name].non_trainable_variables,
            strict=True,
        ):
            np.testing.assert_allclose(own.numpy(), expected.numpy(), rtol=1e-5)


def test_one_update_moves_shared_layers_once():
    method = tiny.compiled(OnTheFlyEnsemble(tiny.branches(2)))
    (objective,) = method.objectives
    assert len({id(v) for v in objective.variables}) == len(objective.variables)
    assert {id(v) for v in objective.variables} == {
        id(v) for v in method.trainable_variables
    }


def test_a_checkpoint_keeps_branches_and_gate(tmp_path):
    batch = tiny.batch()
    method = tiny.compiled(OnTheFlyEnsemble(tiny.branches(2)))
    method.take_step(batch)
    Checkpoints(tmp_path, method).save({"step": 1})
    other = tiny.compiled(OnTheFlyEnsemble(tiny.branches(2)))
    Checkpoints(tmp_path, other).restore()
    for mine, restored in zip(method.variables, other.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), restored.numpy())


def test_peers_that_share_nothing_are_refused():
    with pytest.raises(UserError, match="share their first layers"):
        OnTheFlyEnsemble(tiny.peers("resnet8", "resnet8"))
    with pytest.raises(UserError, match="two or more"):
        OnTheFlyEnsemble(tiny.branches(1))


def test_other_methods_refuse_branches():
    with pytest.raises(UserError, match="for --method=one"):
        tiny.compiled(MutualLearning(tiny.branches(2)))
