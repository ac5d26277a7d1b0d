"""Similarities by hand, or by formulas written once more without cleverness."""

import math

import numpy as np
import pytest

from afd_tf.analysis import similarity
from tests import exports, tiny


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def hsic_by_hand(first, second):
    """HSIC_1 of [n, p] and [n, q], as its definition reads."""
    count = len(first)
    kernels = []
    for values in (first, second):
        kernel = values @ values.T
        np.fill_diagonal(kernel, 0)
        kernels.append(kernel)
    one = np.ones(count)
    product = kernels[0] @ kernels[1]
    total = (one @ kernels[0] @ one) * (one @ kernels[1] @ one)
    return (
        np.trace(product)
        + total / (count - 1) / (count - 2)
        - 2 * (one @ product @ one) / (count - 2)
    ) / (count * (count - 3))


def cka_by_hand(batches, weights):
    """The estimator for pairs of batches [n, p] and [n, q]."""
    sums = np.zeros(3)
    for (first, second), weight in zip(batches, weights, strict=True):
        sums += weight * np.array(
            [
                hsic_by_hand(first, second),
                hsic_by_hand(first, first),
                hsic_by_hand(second, second),
            ]
        )
    return sums[0] / math.sqrt(sums[1] * sums[2])


def only_pair(*batches):
    """Returns the only pair of batches (maps, maps)."""
    comparison = similarity.FeatureComparison([maps.shape[1:] for maps in batches[0]])
    for maps in batches:
        comparison.update(maps)
    (pair,) = comparison.pairs()
    return pair


def flatten(maps):
    return maps.reshape(len(maps), -1)


def test_hsic_of_several_kernels():
    parts = [noise(9, size, seed=size) + 1 for size in (2, 3, 5)]
    grams = np.stack([part @ part.T for part in parts])
    expected = [[hsic_by_hand(a, b) for b in parts] for a in parts]
    np.testing.assert_allclose(similarity.unbiased_hsic(grams), expected, rtol=1e-10)


def test_cka_of_one_batch():
    # Far from the origin, as maps behind a ReLU are.
    first = noise(40, 2, 2, 3) + 3
    second = first[..., :2] + noise(40, 2, 2, 2, seed=1)
    expected = cka_by_hand([(flatten(first), flatten(second))], [1])
    assert 0.1 < expected < 0.9
    assert only_pair((first, second))["cka"] == pytest.approx(expected, rel=1e-10)


def test_cka_does_not_see_a_rotation_or_a_scale():
    first = noise(30, 2, 2, 3)
    rotation, _ = np.linalg.qr(noise(12, 12, seed=1))
    second = 7 * (flatten(first) @ rotation).reshape(first.shape) + 2
    pair = only_pair((first, second))
    assert pair["cka"] == pytest.approx(1, abs=1e-12)
    assert pair["cosine"] < 0.9


def test_cka_of_independent_noise_is_near_0():
    """With the biased HSIC it would be far from it: more features than images."""
    batches = [
        (noise(256, 4, 4, 32, seed=seed), noise(256, 4, 4, 32, seed=seed + 100))
        for seed in range(4)
    ]
    assert abs(only_pair(*batches)["cka"]) < 0.03
    centring = np.eye(256) - 1 / 256
    first, second = (
        centring @ flatten(maps) @ flatten(maps).T @ centring for maps in batches[0]
    )
    biased = np.sum(first * second)
    biased /= np.linalg.norm(first) * np.linalg.norm(second)
    assert biased > 0.5


def test_batches_count_by_their_images_and_tiny_ones_not_for_cka():
    first = noise(23, 1, 2, 3) + 1
    second = first**2 + noise(23, 1, 2, 3, seed=1)
    cuts = [slice(0, 10), slice(10, 16), slice(16, 20), slice(20, 23)]
    pair = only_pair(*((first[cut], second[cut]) for cut in cuts))
    expected = cka_by_hand(
        [(flatten(first[cut]), flatten(second[cut])) for cut in cuts[:3]], [10, 6, 4]
    )
    assert pair["cka"] == pytest.approx(expected, rel=1e-10)
    whole = only_pair((first, second))
    for name in list(similarity.MEASURES)[:3]:
        assert pair[name] == pytest.approx(whole[name], rel=1e-12)


def test_differences_and_cosine_by_hand():
    first = np.float32([[3, 4], [1, 0], [0, 0]]).reshape(3, 1, 1, 2)
    second = np.float32([[4, 3], [0, 2], [5, 1]]).reshape(3, 1, 1, 2)
    pair = only_pair((first[:2], second[:2]), (first[2:], second[2:]))
    assert pair == {
        "networks": (0, 1),
        "l1_mean_absolute_difference": pytest.approx((2 + 3 + 6) / 6),
        "l2_mean_squared_difference": pytest.approx((2 + 5 + 26) / 6),
        # A map of zeros points nowhere.
        "cosine": pytest.approx((24 / 25 + 0 + 0) / 3),
        "cka": None,
        "note": "no CKA: too few images, or maps that hardly depend on them",
    }


def test_unequal_shapes_have_cka_only():
    maps = noise(8, 2, 2, 3), noise(8, 1, 1, 5, seed=1), noise(8, 2, 2, 3, seed=2)
    comparison = similarity.FeatureComparison([each.shape[1:] for each in maps])
    comparison.update(maps)
    pairs = {pair["networks"]: pair for pair in comparison.pairs()}
    assert list(pairs) == [(0, 1), (0, 2), (1, 2)]
    for numbers in ((0, 1), (1, 2)):
        assert pairs[numbers]["cosine"] is None
        assert pairs[numbers]["l1_mean_absolute_difference"] is None
        assert pairs[numbers]["l2_mean_squared_difference"] is None
        assert "2x2x3" in pairs[numbers]["note"] and "1x1x5" in pairs[numbers]["note"]
    assert pairs[0, 2]["cosine"] is not None and pairs[0, 2]["note"] is None
    for (first, second), pair in pairs.items():
        expected = cka_by_hand([(flatten(maps[first]), flatten(maps[second]))], [1])
        assert pair["cka"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_a_dead_network_has_no_cka(seed):
    # Without the shift, rounding gives some of these an HSIC a little above 0.
    dead = np.tile(noise(1, 2, 2, 3, seed=seed + 1), (36, 1, 1, 1))
    pair = only_pair((noise(36, 2, 2, 3), dead))
    assert pair["cka"] is None and pair["note"].startswith("no CKA")


def test_features_of_any_batch():
    peers = [exports.random_peer(name, tiny.info()) for name in ("resnet8", "wrn_10_1")]
    function = similarity.feature_function(peers, (8, 8, 3))
    for count in (3, 5):
        images = exports.random_images((8, 8, 3), count)
        for peer, maps in zip(peers, function(images), strict=True):
            expected = peer(images, training=False).features
            np.testing.assert_allclose(maps, expected, atol=1e-4)


def test_shuffled_batches_are_the_split(digits):
    batches = list(similarity.shuffled_batches(digits, seed=1).as_numpy_iterator())
    assert [len(batch["label"]) for batch in batches] == [256, 104]
    shuffled = np.concatenate([batch["image"] for batch in batches])
    whole = next(digits.evaluation_batches("test", batch_size=360).as_numpy_iterator())
    in_order = whole["image"]
    assert not np.array_equal(shuffled, in_order)
    assert sorted(image.tobytes() for image in shuffled) == sorted(
        image.tobytes() for image in in_order
    )
    others = next(similarity.shuffled_batches(digits, seed=2).as_numpy_iterator())
    assert not np.array_equal(others["image"], batches[0]["image"])
