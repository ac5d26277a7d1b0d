"""Direct alignment against NumPy, in each of its forms."""

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from afd_tf.distill.methods.alignment import FeatureAlignment
from tests import tiny


def by_numpy(kind, own, other):
    own, other = (np.asarray(each, np.float64).reshape(8, -1) for each in (own, other))
    if kind == "l1":
        return np.abs(own - other).mean(axis=1)
    if kind == "l2":
        return ((own - other) ** 2).mean(axis=1)
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(other, axis=1)
    return 1 - (own * other).sum(axis=1) / lengths


@pytest.mark.parametrize("kind", ["l1", "l2", "cosine"])
@pytest.mark.parametrize("names", [["small"] * 3, ["small", "small_wide", "small"]])
@pytest.mark.parametrize("logit_weight", [0.0, 1.0])
def test_the_loss_against_numpy(kind, names, logit_weight):
    flags = {"alignment_distance": kind, "alignment_weight": "0.5"}
    with flagsaver.as_parsed(
        method="alignment", logit_weight=str(logit_weight), **flags
    ):
        method = methods.method_from_flags(tiny.peers(*names))
    labels, outputs = tiny.batch()["label"], tiny.planted(*method.peers)
    values, _ = method.compute_losses(labels, outputs)
    maps = [output.features for output in outputs]
    # Equal channels need no transfer layer.
    assert len(method.transfer_layers) == (3 if len(set(names)) > 1 else 0)
    for number, layer in enumerate(method.transfer_layers):
        maps[number] = layer(maps[number], training=True)
    for number in range(3):
        others = [j for j in range(3) if j != number]
        expected = tiny.cross_entropy(labels, outputs[number].logits)
        for j in others:
            divergence = tiny.divergence(outputs[j].logits, outputs[number].logits, 3.0)
            expected = expected + logit_weight * 9 * divergence / 2
            expected = expected + 0.5 * by_numpy(kind, maps[number], maps[j]) / 2
        np.testing.assert_allclose(
            values[f"peer_{number}/logit"], expected, rtol=1e-4, atol=1e-6
        )


def test_with_adam_it_is_an_objective_of_its_own():
    with flagsaver.as_parsed(method="alignment", alignment_optimizer="adam"):
        method = methods.method_from_flags(tiny.peers("small", "small_wide"))
    tiny.compiled(method)
    labels, outputs = tiny.batch()["label"], tiny.planted(*method.peers)
    values, _ = method.feature_losses(labels, outputs)
    maps = [
        layer(output.features, training=True)
        for layer, output in zip(method.transfer_layers, outputs, strict=True)
    ]
    for number in range(2):
        np.testing.assert_allclose(
            values[f"peer_{number}/alignment"], by_numpy("l1", *maps), rtol=1e-4
        )
    by_name = {each.name: each for each in method.objectives}
    assert type(by_name["peer_0/alignment"].optimizer).__name__ == "Adam"
    logit = {id(v) for v in by_name["peer_0/logit"].variables}
    transfer = {id(v) for v in method.transfer_layers[0].trainable_variables}
    own = {id(v) for v in by_name["peer_0/alignment"].variables}
    assert transfer <= own
    assert not transfer & logit
    head = {id(v) for v in method.peers[0].classifier.trainable_variables}
    assert not head & own


def test_refusals():
    peers = tiny.peers("small", "small")
    with pytest.raises(UserError, match="Did you mean 'cosine'"):
        FeatureAlignment(peers, distance="cosin")
    with pytest.raises(UserError, match="Known: sgd, adam"):
        FeatureAlignment(peers, optimizer="rmsprop")
