"""Each loss against a value by hand, and the topologies."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.distill import losses
from afd_tf.distill.topology import frozen, teachers
from tests import tiny


def test_cross_entropy_by_hand():
    # softmax(0, ln 3) = (1/4, 3/4)
    logits = tf.constant([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    np.testing.assert_allclose(
        losses.cross_entropy(tf.constant([0, 1]), logits),
        [math.log(4.0), math.log(4.0 / 3.0)],
        rtol=1e-6,
    )


def test_softened_divergence_by_hand():
    # At T = 2 the teacher is (1/4, 3/4), the learner (1/2, 1/2).
    teacher = tf.constant([[0.0, 2.0 * math.log(3.0)]])
    learner = tf.constant([[5.0, 5.0]])
    by_hand = 4.0 * (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5))
    np.testing.assert_allclose(
        losses.softened_divergence(teacher, learner, 2.0), [by_hand], rtol=1e-6
    )


def test_softened_divergence_has_the_teacher_first_and_constant():
    teacher, learner = tf.constant([[0.0, 3.0, 1.0]]), tf.constant([[1.0, 0.0, 0.5]])
    with tf.GradientTape() as tape:
        tape.watch([teacher, learner])
        loss = losses.softened_divergence(teacher, learner, 3.0)
    by_teacher, by_learner = tape.gradient(loss, [teacher, learner])
    assert by_teacher is None
    p, q = (np.exp(z / 3) / np.exp(z / 3).sum() for z in (teacher[0], learner[0]))
    np.testing.assert_allclose(by_learner[0], 3 * (q - p), rtol=1e-5)
    other_way = losses.softened_divergence(learner, teacher, 3.0)
    assert abs(float(loss[0] - other_way[0])) > 1e-2


def test_softened_divergence_of_certain_networks_is_finite():
    logits = tf.constant([[1000.0, -1000.0]])
    value = losses.softened_divergence(logits, -logits, 1.0)
    np.testing.assert_allclose(value, [2000.0], rtol=1e-6)


def test_softened_divergence_without_the_square():
    teacher, learner = tf.constant([[0.0, 3.0]]), tf.constant([[1.0, 0.0]])
    with_square = losses.softened_divergence(teacher, learner, 3.0)
    without = losses.softened_divergence(teacher, learner, 3.0, squared=False)
    np.testing.assert_allclose(with_square, 9.0 * without, rtol=1e-6)


def test_the_divergence_is_the_textbooks_and_not_kerass_default():
    distillation = pytest.importorskip("keras.distillation")
    generator = np.random.default_rng(0)
    teacher, learner = (
        tf.constant(generator.normal(size=(16, 10)), tf.float32) for _ in range(2)
    )
    ours = float(tf.reduce_mean(losses.softened_divergence(teacher, learner, 4.0)))
    textbook = 16.0 * tiny.divergence(teacher, learner, 4.0).mean()
    np.testing.assert_allclose(ours, textbook, rtol=1e-5)
    # Keras agrees if it is given the loss as an object; by its name, which is its
    # default, it takes raw logits for probabilities.
    as_object = distillation.LogitsDistillation(
        temperature=4.0, loss=keras.losses.KLDivergence()
    )
    np.testing.assert_allclose(
        as_object.compute_loss(teacher, learner), textbook, rtol=1e-4
    )
    default = distillation.LogitsDistillation(temperature=4.0)
    assert abs(float(default.compute_loss(teacher, learner)) - textbook) > 0.1


def test_least_squares_by_hand():
    scores = tf.constant([1.0, 0.75, 0.0])
    np.testing.assert_allclose(losses.least_squares(scores, 1.0), [0.0, 0.0625, 1.0])
    np.testing.assert_allclose(losses.least_squares(scores, 0.0), [1.0, 0.5625, 0.0])


def test_distances_by_hand():
    learner = tf.constant([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]]])
    teacher = tf.constant([[[1.0, 0.0], [0.0, 8.0]], [[0.0, 0.0], [0.0, 2.0]]])
    np.testing.assert_allclose(losses.l1_distance(learner, teacher), [9 / 4, 3 / 4])
    np.testing.assert_allclose(losses.l2_distance(learner, teacher), [29 / 4, 5 / 4])
    cosine = (1 + 32) / (math.sqrt(30) * math.sqrt(65))
    np.testing.assert_allclose(
        losses.cosine_distance(learner, teacher), [1 - cosine, 1.0], rtol=1e-6
    )


@pytest.mark.parametrize(
    "distance", [losses.l1_distance, losses.l2_distance, losses.cosine_distance]
)
def test_distances_leave_the_teacher_alone(distance):
    learner, teacher = tf.constant([[1.0, 2.0]]), tf.constant([[2.0, 0.5]])
    with tf.GradientTape() as tape:
        tape.watch([learner, teacher])
        loss = distance(learner, teacher)
    by_learner, by_teacher = tape.gradient(loss, [learner, teacher])
    assert by_teacher is None
    assert np.abs(by_learner).max() > 0


def test_topologies():
    assert teachers("cyclic", 2) == teachers("mutual", 2) == [(1,), (0,)]
    assert teachers("cyclic", 4) == [(3,), (0,), (1,), (2,)]
    assert teachers("mutual", 3) == [(1, 2), (0, 2), (0, 1)]


def test_frozen_teachers_are_counted_after_the_peers():
    assert frozen(2, 1) == [(2,), (2,)]
    assert frozen(1, 3) == [(1, 2, 3)]


def test_topology_errors():
    with pytest.raises(UserError, match="Did you mean 'cyclic'"):
        teachers("cyclical", 3)
    with pytest.raises(UserError, match="two or more"):
        teachers("mutual", 1)
