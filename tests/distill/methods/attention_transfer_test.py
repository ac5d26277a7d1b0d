"""Attention transfer against NumPy."""

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from afd_tf.distill.methods.attention_transfer import attention, attention_distance
from tests import tiny


def q(maps):
    power = (np.asarray(maps, np.float64) ** 2).mean(axis=3).reshape(len(maps), -1)
    return power / np.linalg.norm(power, axis=1, keepdims=True)


def test_attention_by_hand():
    # Means of squares over channels: 5 and 12, so (5, 12) / 13.
    maps = np.float32([[[[1.0, 3.0], [np.sqrt(8.0), 4.0]]]])
    np.testing.assert_allclose(attention(maps), [[5 / 13, 12 / 13]], rtol=1e-6)
    other = np.float32([[[[2.0], [0.0]]]])
    np.testing.assert_allclose(
        attention_distance(maps, other),
        [((5 / 13 - 1) ** 2 + (12 / 13) ** 2) / 2],
        rtol=1e-5,
    )


def test_the_loss_against_numpy():
    teachers = tiny.frozen("wrn_10_2")
    with flagsaver.as_parsed(method="attention_transfer"):
        method = methods.method_from_flags(tiny.peers("resnet8"), teachers)
    labels = tiny.batch()["label"]
    student, teacher = outputs = tiny.planted(*method.peers, *teachers)
    values, monitors = method.compute_losses(labels, outputs)
    distance = sum(
        ((q(student.taps[name]) - q(teacher.taps[name])) ** 2).mean(axis=1)
        for name in ("stage_1", "stage_2", "stage_3")
    )
    np.testing.assert_allclose(
        values["peer_0/logit"],
        tiny.cross_entropy(labels, student.logits) + 1000 * distance,
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        monitors["peer_0/loss_attention"], 1000 * distance, rtol=1e-4
    )


def test_stages_are_paired_from_the_last_one_and_averaged_down():
    (student,) = tiny.peers("resnet8")
    (teacher,) = tiny.frozen("resnet8")
    teacher.tap_shapes = {
        f"stage_{n}": (size, size, 4) for n, size in enumerate((8, 8, 3, 2), start=1)
    }
    with flagsaver.as_parsed(method="attention_transfer"):
        method = methods.method_from_flags([student], [teacher])
    assert method.pairs[0] == [
        ("stage_3", "stage_4"),
        ("stage_2", "stage_3"),
        ("stage_1", "stage_2"),
    ]
    outputs = tiny.planted(student, teacher)
    own, other = outputs[0].taps, outputs[1].taps
    distance = sum(
        ((q(tiny.pooled(own[mine], (n, n))) - q(other[its])) ** 2).mean(axis=1)
        for (mine, its), n in zip(method.pairs[0], (2, 3, 8), strict=True)
    )
    further = method.extra_losses(0, outputs)
    np.testing.assert_allclose(further["attention"], 1000 * distance, rtol=1e-4)


def test_one_teacher_with_maps_is_needed():
    with flagsaver.as_parsed(method="attention_transfer"):
        with pytest.raises(UserError, match="one teacher, not 2"):
            methods.method_from_flags(
                tiny.peers("resnet8"), tiny.frozen("resnet8", "resnet8")
            )
        with pytest.raises(UserError, match="give its run directory as --teacher"):
            methods.method_from_flags(tiny.peers("resnet8"))
