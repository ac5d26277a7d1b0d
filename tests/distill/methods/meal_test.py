"""MEAL against NumPy, and its choice of teachers."""

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from afd_tf.distill.methods.meal import MultiModelEnsemble, two_class_loss
from tests import tiny


def build(**flags):
    with flagsaver.as_parsed(method="meal", **flags):
        method = methods.method_from_flags(
            tiny.peers("resnet8"), tiny.frozen("wrn_10_2", "resnet14")
        )
    return tiny.compiled(method)


def log_sigmoid(values):
    return -np.log1p(np.exp(-values))


def test_two_class_loss_by_hand():
    logits = np.float32([[2.0, -1.0]])
    as_teacher = -(log_sigmoid(2.0) + log_sigmoid(1.0)) / 2
    np.testing.assert_allclose(two_class_loss(logits, True), [as_teacher], rtol=1e-6)
    as_student = -(log_sigmoid(-2.0) + log_sigmoid(-1.0)) / 2
    np.testing.assert_allclose(two_class_loss(logits, False), [as_student], rtol=1e-6)


def pooled(maps, width):
    """Mean over positions, then over neighbouring channels."""
    values = np.asarray(maps, np.float64).mean(axis=(1, 2))
    return values.reshape(len(values), width, -1).mean(axis=2)


SIMILARITIES = {
    "cross_entropy": lambda s, t: -(tiny.softmax(t / 2) * np.log(tiny.softmax(s / 2))),
    "l1": lambda s, t: np.abs(s - t) / s.shape[1],
    "l2": lambda s, t: (s - t) ** 2 / s.shape[1],
}


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_losses_against_numpy(similarity):
    method = build(
        meal_similarity=similarity,
        meal_similarity_weight="0.7",
        meal_adversarial_weight="0.2",
        temperature="2",
    )
    images, labels = tiny.batch()["image"], tiny.batch()["label"]
    (student,) = tiny.planted(*method.peers)
    step = 3
    method.objectives[0].optimizer.iterations.assign(step)
    (taught,) = method.teacher_outputs(images)
    chosen = int(tf.random.stateless_uniform([], [0, step], 0, 2, tf.int32))
    teacher = method.frozen_teachers[chosen](images)
    # The student's channels, 16, 32 and 64, are the fewest everywhere.
    levels = {
        level: (pooled(student.taps[tap], n), pooled(teacher.taps[tap], n))
        for level, tap, n in (
            ("-1", "stage_3", 64),
            ("-2", "stage_2", 32),
            ("-3", "stage_1", 16),
        )
    }
    levels["logits"] = (student.logits.numpy(), teacher.logits.numpy())
    expected, telling = 0.0, 0.0
    for level, (own, other) in levels.items():
        np.testing.assert_allclose(taught.taps[level], other, rtol=1e-4, atol=1e-5)
        discriminator = method.discriminators[0][level]
        fake = discriminator(own.astype(np.float32)).numpy()
        real = discriminator(other.astype(np.float32)).numpy()
        expected += 0.7 * SIMILARITIES[similarity](own, other).sum(axis=1)
        fooling = -(log_sigmoid(fake[:, 0]) + log_sigmoid(-fake[:, 1])) / 2
        expected += 0.2 * fooling
        telling += -(log_sigmoid(-fake[:, 0]) + log_sigmoid(fake[:, 1])) / 2
        telling += -(log_sigmoid(real[:, 0]) + log_sigmoid(-real[:, 1])) / 2
    values, _ = method.compute_losses(labels, [student, taught])
    # No labels in it.
    np.testing.assert_allclose(values["peer_0/logit"], expected, rtol=1e-4)
    np.testing.assert_allclose(values["peer_0/discriminator"], telling, rtol=1e-4)


def test_every_teacher_comes_and_a_step_has_always_the_same():
    method = build()
    images = tiny.batch()["image"]
    known = [teacher(images).logits for teacher in method.frozen_teachers]

    @tf.function
    def logits():
        return method.teacher_outputs(images)[0].logits

    def chosen(step):
        method.objectives[0].optimizer.iterations.assign(step)
        said = logits()
        (who,) = [k for k, own in enumerate(known) if np.allclose(own, said, atol=1e-5)]
        return who

    choices = [chosen(step) for step in range(20)]
    assert 4 < sum(choices) < 16
    assert choices == [chosen(step) for step in range(20)]


def test_layers_of_a_discriminator():
    method = build()
    widths = [
        layer.units
        for layer in (
            *method.discriminators[0]["-1"].hidden,
            method.discriminators[0]["-1"].score,
        )
    ]
    assert widths == [32, 16, 2]
    recipe = {each.name: each for each in method.objectives}["peer_0/discriminator"]
    np.testing.assert_allclose(recipe.optimizer.learning_rate, 1e-3)


def test_an_unknown_similarity_is_refused():
    with pytest.raises(UserError, match="Did you mean 'cross_entropy'"):
        MultiModelEnsemble(
            tiny.peers("resnet8"), tiny.frozen("resnet8"), similarity="crossentropy"
        )
