"""Pretrained peers: slower bodies, classifiers that come first, kept statistics."""

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill.fine_tuning import FineTuning, fine_tuning_from_flags
from afd_tf.distill.methods.dml import MutualLearning
from afd_tf.distill.methods.fitnets import FitNets
from afd_tf.distill.methods.independent import Independent
from afd_tf.distill.methods.kd import KnowledgeDistillation
from afd_tf.distill.recipes import Recipe
from tests import tiny

PLAIN = Recipe("sgd", learning_rate=0.1, decay=0.0, momentum=0.0)


def peers():
    """A pretrained peer, and one from noise."""
    pretrained, noise = tiny.peers("resnet8", "resnet8")
    pretrained.pretrained = True
    return pretrained, noise


def moved(variables, before):
    return [
        value - old for value, old in zip(tiny.values(variables), before, strict=True)
    ]


def step(fine_tuning, seed=0):
    """Returns what a step moved in body and classifier of both peers."""
    both = peers()
    method = Independent(both, recipe=PLAIN, fine_tuning=fine_tuning)
    tiny.compiled(method)
    parts = [
        variables
        for peer in both
        for variables in (peer.feature_variables, peer.classifier.trainable_variables)
    ]
    before = [tiny.values(variables) for variables in parts]
    method.take_step(tiny.batch(seed))
    return [moved(*each) for each in zip(parts, before, strict=True)]


def test_the_body_of_a_pretrained_peer_moves_more_slowly():
    full = step(FineTuning())
    slow = step(FineTuning(backbone_rate=0.25))
    for number, factor in enumerate((0.25, 1.0, 1.0, 1.0)):
        assert any(np.abs(change).max() > 1e-4 for change in full[number])
        for change, expected in zip(slow[number], full[number], strict=True):
            np.testing.assert_allclose(change, factor * expected, atol=2e-6)


def statistics(peer):
    return [
        variable for variable in peer.variables if variable.name.startswith("moving_")
    ]


@pytest.mark.parametrize(("kind", "kept"), [("kept", True), ("moving", False)])
def test_batch_statistics(kind, kept):
    pretrained, noise = peers()
    # As after another training: not those of this batch.
    for variable in statistics(pretrained):
        variable.assign(variable + 0.5)
    method = tiny.compiled(
        Independent([pretrained, noise], fine_tuning=FineTuning(statistics=kind))
    )
    before = [tiny.values(statistics(peer)) for peer in (pretrained, noise)]
    images = tiny.batch()["image"]
    in_training, in_inference = pretrained(images, training=True), pretrained(images)
    assert np.array_equal(in_training.logits, in_inference.logits) == kept
    method.take_step(tiny.batch())
    after = [tiny.values(statistics(peer)) for peer in (pretrained, noise)]
    assert all(map(np.array_equal, before[0], after[0])) == kept
    assert not any(map(np.array_equal, before[1], after[1]))


def test_classifiers_come_first():
    pretrained, noise = peers()
    method = MutualLearning(
        [pretrained, noise], recipe=PLAIN, fine_tuning=FineTuning(freeze_epochs=2)
    )
    tiny.compiled(method)
    # A second length of the run is no second warm-up.
    tiny.compiled(method)
    assert method.warmup_epochs == 2
    method.warming_up = True
    batch = tiny.batch()
    logits = pretrained(batch["image"]).logits
    features = pretrained(batch["image"]).features
    before = tiny.values(method.variables)
    head = {id(each) for each in pretrained.classifier.trainable_variables}
    metrics = method.take_step(batch)
    np.testing.assert_allclose(
        metrics["peer_0/loss_head"],
        tiny.cross_entropy(batch["label"], logits).mean(),
        rtol=1e-5,
    )
    # The gradient of the mean cross-entropy, by hand.
    wrong = (tiny.softmax(logits) - np.eye(tiny.CLASSES)[batch["label"]]) / 8
    pooled = np.mean(features, axis=(1, 2))
    for variable, old in zip(method.variables, before, strict=True):
        if id(variable) not in head:
            np.testing.assert_array_equal(variable.value.numpy(), old)
        elif variable.name == "kernel":
            expected = old - 0.1 * pooled.T @ wrong
            np.testing.assert_allclose(variable.value.numpy(), expected, atol=1e-6)
    method.warming_up = False
    assert "peer_1/loss_logit" in method.take_step(batch)


def test_the_classifier_of_a_teacher_comes_first():
    (student,), (teacher,) = tiny.peers("resnet8"), tiny.frozen("resnet8")
    teacher.random_head = True
    teacher.classifier.trainable = True
    method = KnowledgeDistillation(
        [student], [teacher], recipe=PLAIN, fine_tuning=FineTuning(freeze_epochs=2)
    )
    tiny.compiled(method)
    method.warming_up = True
    batch = tiny.batch()
    output = teacher(batch["image"])
    before = tiny.values(method.variables)
    metrics = method.take_step(batch)
    np.testing.assert_allclose(
        metrics["teacher_0/loss_head"],
        tiny.cross_entropy(batch["label"], output.logits).mean(),
        rtol=1e-5,
    )
    wrong = (tiny.softmax(output.logits) - np.eye(tiny.CLASSES)[batch["label"]]) / 8
    pooled = np.mean(output.features, axis=(1, 2))
    moved_by = {
        id(teacher.classifier.kernel): -0.1 * pooled.T @ wrong,
        id(teacher.classifier.bias): -0.1 * wrong.sum(axis=0),
    }
    for variable, old in zip(method.variables, before, strict=True):
        expected = old + moved_by.pop(id(variable), 0)
        np.testing.assert_allclose(variable.value.numpy(), expected, atol=1e-6)
    assert not moved_by
    # Then it is frozen, like the rest of it, and the student learns from it.
    method.warming_up = False
    before = tiny.values(teacher.variables)
    assert {"peer_0/loss_divergence", "teacher_0/accuracy"} <= method.take_step(
        batch
    ).keys()
    assert all(map(np.array_equal, tiny.values(teacher.variables), before))


def test_peers_from_noise_have_nothing_to_freeze():
    method = Independent(tiny.peers("resnet8"), fine_tuning=FineTuning(freeze_epochs=2))
    assert tiny.compiled(method).warmup is None


def test_two_warm_ups_are_refused():
    (student, _), teachers = peers(), tiny.frozen("resnet8")
    method = FitNets(
        [student], teachers, hint_epochs=1, fine_tuning=FineTuning(freeze_epochs=1)
    )
    with pytest.raises(UserError, match="both come before the run: give one of them"):
        tiny.compiled(method)


def test_the_flags():
    with flagsaver.as_parsed(
        backbone_learning_rate="0.1", freeze_epochs="3", batch_statistics="kept"
    ):
        assert fine_tuning_from_flags() == FineTuning(0.1, 3, "kept")
    with (
        flagsaver.as_parsed(batch_statistics="still"),
        pytest.raises(
            UserError, match="--batch_statistics=still should be one of moving"
        ),
    ):
        fine_tuning_from_flags()
