"""Grad-CAM by formulas for simple heads, and images drawn at random."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.analysis import grad_cam
from afd_tf.models import PeerOutput
from tests import exports, tiny


def test_the_draw_is_fair_wherever_the_batches_end():
    counts = np.zeros(10)
    for seed in range(1000):
        draw = grad_cam.ImageSampler({None: 2}, seed)
        for cut in (slice(0, 1), slice(1, 8), slice(8, 10)):
            draw.update(np.arange(10)[cut], np.zeros(10, int)[cut])
        images, _ = draw.result()
        assert len(set(images)) == 2
        counts[images] += 1
    assert np.all(np.abs(counts - 200) < 60)  # 4.7 standard deviations


def test_the_draw_keeps_its_quotas():
    images = exports.random_images((2, 2, 1), 40)
    labels = np.arange(40) % 5
    draw = grad_cam.ImageSampler({3: 2, 1: 3, 7: 1}, seed=0)
    draw.update(images[:20], labels[:20])
    draw.update(images[20:], labels[20:])
    drawn, drawn_labels = draw.result()
    assert drawn_labels == [3, 3, 1, 1, 1]
    known = {
        image.tobytes(): label for image, label in zip(images, labels, strict=True)
    }
    assert [known[image.tobytes()] for image in drawn] == drawn_labels
    assert grad_cam.ImageSampler({}, seed=0).result() == ([], [])


def grad_cam_by_hand(peer, images, classes):
    """For average pooling and one dense layer, d logit_c / d F_k = W_kc / (h w)."""
    features = peer(images, training=False).features.numpy()
    kernel = peer.classifier.kernel.value.numpy()  # [channels, classes]
    _, height, width, _ = features.shape
    weights = kernel[:, classes].T / (height * width)
    maps = np.einsum("bhwk,bk->bhw", features, weights)
    return np.maximum(maps, 0)


@pytest.mark.parametrize("given", [True, False])
def test_grad_cam_of_average_pooling(given):
    peer = exports.random_peer("resnet8", tiny.info((16, 24, 3)))
    images = exports.random_images((16, 24, 3), 6)
    logits = exports.logits_of(peer, images).astype(np.float64)
    predicted = np.argmax(logits, axis=-1)
    # Some logits' maps are 0 everywhere, some are not.
    classes = np.array([4, 0, 1, 2, 3, 1])
    seen = grad_cam.grad_cam(peer, images, classes if given else None)
    np.testing.assert_array_equal(seen.predicted, predicted)
    probabilities = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    np.testing.assert_allclose(
        seen.probabilities, np.max(probabilities, axis=-1), rtol=1e-5
    )
    expected = grad_cam_by_hand(peer, images, classes if given else predicted)
    assert np.any(expected > 0) and expected.shape == (6, 4, 6)
    assert seen.maps.shape == (6, 16, 24)
    np.testing.assert_allclose(
        seen.maps, grad_cam.enlarge(expected, (16, 24)), atol=1e-5
    )


def test_grad_cam_of_another_head():
    """The logits are the greatest values of the two channels."""

    class Peer:
        def __call__(self, images, training):
            assert not training
            features = tf.cast(images, tf.float32)
            return PeerOutput(features, self.classify(features), {})

        def classify(self, features):
            return tf.reduce_max(features, axis=(1, 2))

    images = np.uint8([[[8, 1], [4, 2]], [[2, 1], [6, 5]]])[np.newaxis]
    for classes, channel in ((None, 0), ([1], 1)):
        seen = grad_cam.grad_cam(Peer(), images, classes)
        # The gradient is 1 in one place: the weight is 1/4, the scale takes it out.
        expected = images[..., channel] / np.max(images[..., channel])
        np.testing.assert_allclose(seen.maps, expected, rtol=1e-6)


def test_enlarge_by_hand():
    maps = np.float32([[[0, 4], [0, 4]], [[0, 0], [0, 0]]])
    expected = np.array([0, 0.25, 0.75, 1])
    large = grad_cam.enlarge(maps, (3, 4))
    np.testing.assert_allclose(large[0], np.tile(expected, (3, 1)), atol=1e-6)
    np.testing.assert_array_equal(large[1], 0)


@pytest.mark.parametrize(
    ("maps", "size", "expected"),
    [
        ([[5]], (2, 3), np.ones([2, 3])),
        ([[0]], (2, 2), np.zeros([2, 2])),
        ([[1, 2]], (1, 2), [[0.5, 1]]),
        # Between the positions of the small map, the peak is cut: still brought to 1.
        ([[0, 1, 0]], (1, 6), [[0, 1 / 3, 1, 1, 1 / 3, 0]]),
    ],
)
def test_enlarge_at_the_corners(maps, size, expected):
    large = grad_cam.enlarge(np.float32([maps]), size)[0]
    np.testing.assert_allclose(large, expected, atol=1e-6)
