"""Knowledge distillation against NumPy."""

import numpy as np
from absl.testing import flagsaver

from afd_tf.distill import methods
from tests import tiny


def test_the_loss_against_numpy():
    teachers = tiny.frozen("small", "small_wide")
    with flagsaver.as_parsed(method="kd"):
        method = methods.method_from_flags(
            tiny.peers("small", "small"), frozen_teachers=teachers
        )
    labels = tiny.batch()["label"]
    outputs = tiny.planted(*method.peers, *teachers)
    values, monitors = method.compute_losses(labels, outputs)
    # Both students learn from both teachers, and nothing from each other.
    for number, output in enumerate(outputs[:2]):
        divergence = np.mean(
            [tiny.divergence(t.logits, output.logits, 4.0) for t in outputs[2:]], axis=0
        )
        expected = 0.1 * tiny.cross_entropy(labels, output.logits)
        np.testing.assert_allclose(
            values[f"peer_{number}/logit"], expected + 0.9 * 16 * divergence, rtol=1e-5
        )
    for number, output in enumerate(outputs[2:]):
        right = np.argmax(output.logits, axis=1) == labels
        np.testing.assert_array_equal(monitors[f"teacher_{number}/accuracy"], right)


def test_a_flag_of_the_user_beats_the_methods_default():
    with flagsaver.as_parsed(method="kd", temperature="2", label_weight="1"):
        method = methods.method_from_flags(tiny.peers("small"), tiny.frozen("small"))
    assert (method.temperature, method.label_weight) == (2.0, 1.0)
    assert method.logit_weight == 0.9
