"""The ramp of the divergence; its other parts are compared in the methods' tests."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.distill.logit_distillation import ramp
from afd_tf.distill.methods.dml import MutualLearning
from tests import tiny


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, np.exp(-5)), (40, np.exp(-1.25)), (80, 1), (299, 1)]
)
def test_ramp(epoch, expected):
    np.testing.assert_allclose(ramp(tf.constant(float(epoch)), 80.0), expected, 1e-6)
    assert ramp(tf.constant(float(epoch)), 0.0) == 1.0


def test_the_divergence_grows_epoch_by_epoch():
    method = MutualLearning(
        tiny.peers("resnet8", "resnet8"), logit_weight=0.5, logit_ramp_epochs=2.0
    )
    method.compile(epochs=4, steps_per_epoch=3)
    labels, outputs = tiny.batch()["label"], tiny.planted(*method.peers)
    entropy = tiny.cross_entropy(labels, outputs[0].logits)
    divergence = tiny.divergence(outputs[1].logits, outputs[0].logits, 3.0) * 9.0
    for step, factor in [(0, np.exp(-5)), (2, np.exp(-5)), (3, np.exp(-1.25)), (6, 1)]:
        method.objectives[0].optimizer.iterations.assign(step)
        values, monitors = method.compute_losses(labels, outputs)
        expected = entropy + 0.5 * factor * divergence
        np.testing.assert_allclose(values["peer_0/logit"], expected, rtol=1e-5)
        np.testing.assert_allclose(
            monitors["peer_0/loss_divergence"], divergence, rtol=1e-4
        )
