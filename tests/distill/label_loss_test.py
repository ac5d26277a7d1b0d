"""The loss of the labels against NumPy: smoothed, weighted, both."""

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from afd_tf.distill.label_loss import LabelLoss, balanced_weights
from afd_tf.distill.labels import MixedLabels
from tests import tiny

LABELS = np.int32([0, 1, 4, 2, 2, 3])
LOGITS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 3.0, 0.25)])
def test_against_a_smoothed_target(smoothing, weights):
    probabilities = tiny.softmax(LOGITS)
    target = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
    expected = -np.sum(target * np.log(probabilities), axis=-1)
    if weights:
        expected *= np.array(weights)[LABELS]
    found = LabelLoss(smoothing, weights)(LABELS, LOGITS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 3.0, 0.25)])
def test_mixed_labels_against_a_soft_target(smoothing, weights):
    partner = LABELS[::-1].copy()
    weight = np.float32([0, 0.25, 0.5, 0.7, 1, 0.1])
    own_part, partner_part = 1.0 - weight, weight
    if weights:
        # As with PyTorch's class weights, each label brings its own.
        own_part = own_part * np.array(weights)[LABELS]
        partner_part = partner_part * np.array(weights)[partner]
    target = own_part[:, np.newaxis] * np.eye(5)[LABELS]
    target += partner_part[:, np.newaxis] * np.eye(5)[partner]
    target = (1 - smoothing) * target + smoothing / 5 * target.sum(1, keepdims=True)
    expected = -np.sum(target * np.log(tiny.softmax(LOGITS)), axis=-1)
    found = LabelLoss(smoothing, weights)(MixedLabels(LABELS, partner, weight), LOGITS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_balanced_classes_weigh_the_same_and_images_one_on_average():
    counts = np.array([10, 1, 4])
    weights = np.array(balanced_weights(counts.tolist()))
    np.testing.assert_allclose(weights * counts, 5.0)
    assert np.sum(weights * counts) == pytest.approx(15)
    with pytest.raises(UserError, match="class 1 has no training images"):
        balanced_weights([3, 0, 1])


@pytest.mark.parametrize("name", ["dml", "independent", "afd", "one"])
def test_every_method_takes_it(name):
    peers = tiny.branches(2) if name == "one" else tiny.peers("resnet8", "resnet8")
    labels = tiny.batch()["label"]
    outputs = tiny.planted(*peers)
    weights = balanced_weights([1, 2, 3, 4, 5])
    with flagsaver.as_parsed(
        method=name,
        logit_weight="0",
        label_smoothing="0.2",
        class_weights="balanced",
    ):
        method = tiny.compiled(
            methods.method_from_flags(peers, (), lambda: [1, 2, 3, 4, 5])
        )
    assert method.label_loss == LabelLoss(0.2, weights)
    _, monitors = method.compute_losses(labels, outputs)
    expected = LabelLoss(0.2, weights)(labels, outputs[1].logits)
    loss = "peer_1/loss_cross_entropy"
    if name == "independent":
        values, _ = method.compute_losses(labels, outputs)
        monitors = {loss: values["peer_1/logit"]}
    np.testing.assert_allclose(monitors[loss], expected, rtol=1e-6)
