"""Each loss against a value by hand, and the topologies."""

import math

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.distill import losses
from afd_tf.distill.topology import teachers
from afd_tf.errors import UserError


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


def test_adversarial_losses_by_hand():
    real, fake = tf.constant([1.0, 0.75]), tf.constant([0.0, 0.5])
    np.testing.assert_allclose(
        losses.discriminator_loss(real, fake), [0.0, 0.0625 + 0.25]
    )
    np.testing.assert_allclose(losses.fooling_loss(fake), [1.0, 0.25])


def test_topologies():
    assert teachers("cyclic", 2) == teachers("mutual", 2) == [(1,), (0,)]
    assert teachers("cyclic", 4) == [(3,), (0,), (1,), (2,)]
    assert teachers("mutual", 3) == [(1, 2), (0, 2), (0, 1)]


def test_topology_errors():
    with pytest.raises(UserError, match="Did you mean 'cyclic'"):
        teachers("cyclical", 3)
    with pytest.raises(UserError, match="two or more"):
        teachers("mutual", 1)
