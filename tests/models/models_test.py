"""The peers: parameter counts, shapes, gradients, names, and what they cost."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.errors import UserError
from afd_tf.models import build_peer, multiply_adds
from tests import tiny

# Trainable numbers for 100 classes and 32x32x3 pictures.
PARAMETERS = {
    "resnet8": 83_892,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_16_4": 2_772_020,
    "wrn_28_2": 1_479_220,
    "wrn_28_4": 5_872_180,
    "wrn_28_10": 36_536_884,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    peer = build_peer(name, tiny.info((32, 32, 3), classes=100))
    assert peer.parameters == PARAMETERS[name]
    head = peer.classifier.count_params()
    assert sum(v.value.shape.num_elements() for v in peer.feature_variables) == (
        PARAMETERS[name] - head
    )


@pytest.mark.parametrize(
    ("name", "image_shape", "features"),
    [
        ("resnet8", (32, 32, 3), (8, 8, 64)),
        ("resnet14", (28, 28, 1), (7, 7, 64)),
        ("wrn_10_2", (8, 8, 1), (2, 2, 128)),
        ("wrn_16_1", (20, 13, 3), (5, 4, 64)),
    ],
)
def test_feature_shape_and_taps(name, image_shape, features):
    peer = build_peer(name, tiny.info(image_shape))
    assert peer.feature_shape == features
    images = tf.zeros([2, *image_shape], tf.uint8)
    taps = peer.taps(images)
    np.testing.assert_array_equal(list(taps.values())[-1], peer(images).features)
    assert list(taps)[:4] == ["stem", "stage_1", "stage_2", "stage_3"]


@pytest.mark.parametrize("name", ["resnet14", "wrn_10_2"])
def test_gradient_reaches_every_variable(name):
    (peer,) = tiny.peers(name)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(peer(tiny.batch()["image"], training=True).logits ** 2)
    variables = [v.value for v in peer.trainable_variables]
    for variable, gradient in zip(
        variables, tape.gradient(loss, variables), strict=True
    ):
        assert float(tf.reduce_max(tf.abs(gradient))) > 0, variable.name


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1"])
def test_logits_are_pooled_features_through_the_classifier(name):
    (peer,) = tiny.peers(name)
    features, logits, _ = peer(tiny.batch()["image"])
    kernel, bias = (v.numpy() for v in peer.classifier.weights)
    by_hand = features.numpy().mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-5)
    assert logits.dtype == tf.float32
    assert features.numpy().min() >= 0  # after a ReLU


def test_the_same_seed_gives_the_same_network():
    one, two = (tiny.peers("resnet8", seed=3)[0] for _ in range(2))
    other = tiny.peers("resnet8", seed=4)[0]
    for a, b in zip(
        tiny.values(one.variables), tiny.values(two.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    kernel, different = (
        p.body["stem"].convolution.kernel.numpy() for p in (one, other)
    )
    assert not np.array_equal(kernel, different)
    # Two peers of a run begin differently.
    first, second = tiny.peers("resnet8", "resnet8")
    assert not np.array_equal(
        first.body["stem"].convolution.kernel.numpy(),
        second.body["stem"].convolution.kernel.numpy(),
    )


def test_he_initialisation():
    peer = build_peer("wrn_10_4", tiny.info())
    kernel = peer.body["stage_3"].layers[0].second.kernel.numpy()  # 3x3, 256 to 256
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)
    assert abs(kernel.mean()) < 1e-3
    bound = 1 / np.sqrt(256)
    head = peer.classifier.kernel.numpy()
    assert np.abs(head).max() <= bound
    assert np.std(head) == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_multiply_adds_by_hand():
    # 8x8x3 pictures, resnet8: stem; stage 1 at 8x8; stages 2, 3 halve each.
    peer = build_peer("resnet8", tiny.info())
    stem = 64 * 9 * 3 * 16
    first = 2 * 64 * 9 * 16 * 16
    second = 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)
    third = 4 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    head = 64 * tiny.CLASSES
    assert multiply_adds(peer, (8, 8, 3)) == stem + first + second + third + head


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnt20", "Did you mean 'resnet20'"),
        ("resnet21", "6 n \\+ 2.*'resnet20'"),
        ("wrn_17_2", "6 n \\+ 4.*'wrn_16_2'"),
        ("wrn_16_0", "'wrn_16_1'"),
    ],
)
def test_unknown_names(name, hint):
    with pytest.raises(UserError, match=hint):
        build_peer(name, tiny.info())


def test_too_small_pictures_are_refused():
    with pytest.raises(UserError, match="3x3 are too small for resnet8"):
        build_peer("resnet8", tiny.info((3, 3, 1)))
