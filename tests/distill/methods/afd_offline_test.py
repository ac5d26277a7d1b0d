"""AFD with a frozen teacher."""

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from tests import tiny


def build(peers, teachers):
    with flagsaver.as_parsed(method="afd_offline"):
        return methods.method_from_flags(peers, teachers)


def test_the_losses_against_numpy():
    teachers = tiny.frozen("wrn_10_2")
    method = build(tiny.peers("resnet8", "wrn_10_2"), teachers)
    # Transfer layers lead to the teacher's 128 channels; it has none itself.
    assert len(method.transfer_layers) == 2
    outputs = tiny.planted(*method.peers, *teachers)
    labels = tiny.batch()["label"]
    values, _ = method.compute_losses(labels, outputs)
    feature_values, monitors = method.feature_losses(labels, outputs)
    for number, output in enumerate(outputs[:2]):
        divergence = tiny.divergence(outputs[2].logits, output.logits, 3.0)
        np.testing.assert_allclose(
            values[f"peer_{number}/logit"],
            tiny.cross_entropy(labels, output.logits) + 9 * divergence,
            rtol=1e-5,
        )
        own = method.transfer_layers[number](output.features, training=True)
        discriminator = method.discriminators[number]
        fake = discriminator(own, training=True).numpy()
        real = discriminator(outputs[2].features, training=True).numpy()
        np.testing.assert_allclose(
            np.sum(feature_values[f"peer_{number}/discriminator"]),
            np.sum((1 - real) ** 2 + fake**2),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            feature_values[f"peer_{number}/feature"], (1 - fake) ** 2, rtol=1e-5
        )
        np.testing.assert_allclose(
            monitors[f"peer_{number}/discriminator_accuracy_real"], real > 0.5
        )


def test_teachers_with_different_channels_are_refused():
    with pytest.raises(UserError, match=r"differ in channels \(64, 128\)"):
        build(tiny.peers("resnet8"), tiny.frozen("resnet8", "wrn_10_2"))
