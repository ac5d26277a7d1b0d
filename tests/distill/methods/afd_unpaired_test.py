"""Unpaired AFD: each network shows the maps of its own images, and of no others."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.distill.methods.afd_unpaired import UnpairedFeatureDistillation
from afd_tf.models import PeerOutput
from tests import tiny
from tests.distill.methods.afd_test import build


@pytest.mark.parametrize(
    ("size", "networks", "expected"),
    [
        (8, 2, [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (7, 3, [[0, 3, 6], [1, 4], [2, 5]]),
        # Fewer images than networks.
        (2, 3, [[0, 1]] * 3),
    ],
)
def test_unpaired_networks_are_shown_with_their_own_images(size, networks, expected):
    method = UnpairedFeatureDistillation(tiny.peers(*["small"] * networks))
    shown = [[] for _ in range(networks)]

    def discriminator(number):
        # A score that tells the image from which the map is.
        def score(maps, training):
            shown[number].append(maps[:, 0, 0, 0].numpy().astype(int).tolist())
            return maps[:, 0, 0, 0] / 1000

        return score

    method.discriminators = [discriminator(number) for number in range(networks)]
    outputs = [
        PeerOutput(
            tf.fill([size, 2, 2, 64], 1.0)
            * tf.reshape(tf.range(size, dtype=tf.float32) + 100 * k, [-1, 1, 1, 1]),
            tf.zeros([size, tiny.CLASSES]),
            {},
        )
        for k in range(networks)
    ]
    values, monitors = method.feature_losses(tf.zeros([size], tf.int32), outputs)
    for number in range(networks):
        teacher = (number - 1) % networks
        own = [i + 100 * number for i in expected[number]]
        other = [i + 100 * teacher for i in expected[teacher]]
        assert shown[number] == [own, other]
        fake, real = np.array(own) / 1000, np.array(other) / 1000
        # The mean over what was shown: what the division by the batch makes of it.
        np.testing.assert_allclose(
            np.sum(values[f"peer_{number}/discriminator"]) / size,
            np.mean(fake**2) + np.mean((1 - real) ** 2),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            np.sum(values[f"peer_{number}/feature"]) / size,
            np.mean((1 - fake) ** 2),
            rtol=1e-5,
        )
        accuracy = monitors[f"peer_{number}/discriminator_accuracy"]
        np.testing.assert_allclose(
            np.sum(accuracy) / size,
            (np.mean(fake < 0.5) + np.mean(real > 0.5)) / 2,
            rtol=1e-5,
        )


def test_without_logit_weight_the_unpaired_networks_share_no_image():
    # A peer's own step must not depend on what another peer makes of its images.
    def kernels_after(poisoned):
        method = build(
            ["small", "small"], UnpairedFeatureDistillation, logit_weight=0.0
        )
        call = method.call

        def other_features_of_own_images(images, training=False):
            first, second = call(images, training)
            # Peer 0 is shown with the even images: there peer 1's map is nobody's.
            mask = np.zeros((8, 1, 1, 1), np.float32)
            mask[::2] = poisoned
            return [first, second._replace(features=second.features + mask)]

        method.call = other_features_of_own_images
        method.take_step(tiny.batch())
        return [v.value.numpy() for v in method.trainable_variables]

    for one, other in zip(kernels_after(0.0), kernels_after(5.0), strict=True):
        np.testing.assert_array_equal(one, other)
