"""Numbers by hand, or by formulas written once more without cleverness."""

import io
import json
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from afd_tf import analysis
from afd_tf.models import PeerOutput
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


def compare(*batches):
    """Returns the only pair of batches (maps, maps)."""
    comparison = analysis.FeatureComparison([maps.shape[1:] for maps in batches[0]])
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
    np.testing.assert_allclose(analysis.unbiased_hsic(grams), expected, rtol=1e-10)


def test_cka_of_one_batch():
    # Far from the origin, as maps behind a ReLU are.
    first = noise(40, 2, 2, 3) + 3
    second = first[..., :2] + noise(40, 2, 2, 2, seed=1)
    expected = cka_by_hand([(flatten(first), flatten(second))], [1])
    assert 0.1 < expected < 0.9
    assert compare((first, second))["cka"] == pytest.approx(expected, rel=1e-10)


def test_cka_does_not_see_a_rotation_or_a_scale():
    first = noise(30, 2, 2, 3)
    rotation, _ = np.linalg.qr(noise(12, 12, seed=1))
    second = 7 * (flatten(first) @ rotation).reshape(first.shape) + 2
    pair = compare((first, second))
    assert pair["cka"] == pytest.approx(1, abs=1e-12)
    assert pair["cosine"] < 0.9


def test_cka_of_independent_noise_is_near_0():
    """With the biased HSIC it would be far from it: more features than pictures."""
    batches = [
        (noise(256, 4, 4, 32, seed=seed), noise(256, 4, 4, 32, seed=seed + 100))
        for seed in range(4)
    ]
    assert abs(compare(*batches)["cka"]) < 0.03
    centring = np.eye(256) - 1 / 256
    first, second = (
        centring @ flatten(maps) @ flatten(maps).T @ centring for maps in batches[0]
    )
    biased = np.sum(first * second)
    biased /= np.linalg.norm(first) * np.linalg.norm(second)
    assert biased > 0.5


def test_batches_count_by_their_pictures_and_tiny_ones_not_for_cka():
    first = noise(23, 1, 2, 3) + 1
    second = first**2 + noise(23, 1, 2, 3, seed=1)
    cuts = [slice(0, 10), slice(10, 16), slice(16, 20), slice(20, 23)]
    pair = compare(*((first[cut], second[cut]) for cut in cuts))
    expected = cka_by_hand(
        [(flatten(first[cut]), flatten(second[cut])) for cut in cuts[:3]], [10, 6, 4]
    )
    assert pair["cka"] == pytest.approx(expected, rel=1e-10)
    whole = compare((first, second))
    for name in list(analysis.MEASURES)[:3]:
        assert pair[name] == pytest.approx(whole[name], rel=1e-12)


def test_differences_and_cosine_by_hand():
    first = np.float32([[3, 4], [1, 0], [0, 0]]).reshape(3, 1, 1, 2)
    second = np.float32([[4, 3], [0, 2], [5, 1]]).reshape(3, 1, 1, 2)
    pair = compare((first[:2], second[:2]), (first[2:], second[2:]))
    assert pair == {
        "networks": (0, 1),
        "l1_mean_absolute_difference": pytest.approx((2 + 3 + 6) / 6),
        "l2_mean_squared_difference": pytest.approx((2 + 5 + 26) / 6),
        # A map of zeros points nowhere.
        "cosine": pytest.approx((24 / 25 + 0 + 0) / 3),
        "cka": None,
        "note": "no CKA: too few pictures, or maps that hardly depend on them",
    }


def test_unequal_shapes_have_cka_only():
    maps = noise(8, 2, 2, 3), noise(8, 1, 1, 5, seed=1), noise(8, 2, 2, 3, seed=2)
    comparison = analysis.FeatureComparison([each.shape[1:] for each in maps])
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
    pair = compare((noise(36, 2, 2, 3), dead))
    assert pair["cka"] is None and pair["note"].startswith("no CKA")


def test_features_of_any_batch():
    peers = [exports.random_peer(name, tiny.info()) for name in ("resnet8", "wrn_10_1")]
    function = analysis.feature_function(peers, (8, 8, 3))
    for count in (3, 5):
        images = exports.pictures((8, 8, 3), count)
        for peer, maps in zip(peers, function(images), strict=True):
            expected = peer(images, training=False).features
            np.testing.assert_allclose(maps, expected, atol=1e-4)


def test_the_draw_is_fair_wherever_the_batches_end():
    counts = np.zeros(10)
    for seed in range(1000):
        draw = analysis.PictureDraw({None: 2}, seed)
        for cut in (slice(0, 1), slice(1, 8), slice(8, 10)):
            draw.update(np.arange(10)[cut], np.zeros(10, int)[cut])
        images, _ = draw.result()
        assert len(set(images)) == 2
        counts[images] += 1
    assert np.all(np.abs(counts - 200) < 60)  # 4.7 standard deviations


def test_the_draw_keeps_its_quotas():
    images = exports.pictures((2, 2, 1), 40)
    labels = np.arange(40) % 5
    draw = analysis.PictureDraw({3: 2, 1: 3, 7: 1}, seed=0)
    draw.update(images[:20], labels[:20])
    draw.update(images[20:], labels[20:])
    drawn, drawn_labels = draw.result()
    assert drawn_labels == [3, 3, 1, 1, 1]
    known = {
        image.tobytes(): label for image, label in zip(images, labels, strict=True)
    }
    assert [known[image.tobytes()] for image in drawn] == drawn_labels
    assert analysis.PictureDraw({}, seed=0).result() == ([], [])


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
    images = exports.pictures((16, 24, 3), 6)
    logits = exports.logits_of(peer, images).astype(np.float64)
    predicted = np.argmax(logits, axis=-1)
    # Some logits' maps are 0 everywhere, some are not.
    classes = np.array([4, 0, 1, 2, 3, 1])
    seen = analysis.grad_cam(peer, images, classes if given else None)
    np.testing.assert_array_equal(seen.predicted, predicted)
    probabilities = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    np.testing.assert_allclose(
        seen.probabilities, np.max(probabilities, axis=-1), rtol=1e-5
    )
    expected = grad_cam_by_hand(peer, images, classes if given else predicted)
    assert np.any(expected > 0) and expected.shape == (6, 4, 6)
    assert seen.maps.shape == (6, 16, 24)
    np.testing.assert_allclose(
        seen.maps, analysis.enlarge(expected, (16, 24)), atol=1e-5
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
        seen = analysis.grad_cam(Peer(), images, classes)
        # The gradient is 1 in one place: the weight is 1/4, the scale takes it out.
        expected = images[..., channel] / np.max(images[..., channel])
        np.testing.assert_allclose(seen.maps, expected, rtol=1e-6)


def test_enlarge_by_hand():
    maps = np.float32([[[0, 4], [0, 4]], [[0, 0], [0, 0]]])
    expected = np.array([0, 0.25, 0.75, 1])
    large = analysis.enlarge(maps, (3, 4))
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
    large = analysis.enlarge(np.float32([maps]), size)[0]
    np.testing.assert_allclose(large, expected, atol=1e-6)


def epochs(accuracies, peer=0):
    key = f"train/peer_{peer}/discriminator_accuracy"
    return [
        {
            "epoch": number + 1,
            "train/teacher_0/discriminator_accuracy": 1.0,
            key: value,
            f"{key}_real": value - 0.01,
            f"{key}_fake": value + 0.01,
        }
        for number, value in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    ("accuracies", "state", "last_quarter", "words"),
    [
        ([0.6, 0.9, 0.95, 0.95, 0.95, 0.95, 0.985, 0.995], "collapsed", 0.99, "99.0%"),
        ([0.6, 0.9, 0.95, 0.95, 0.95, 0.95, 0.98, 0.99], "in balance", 0.985, "98.5%"),
        ([1, 1, 1, 1, 1, 1, 0.5, 0.6], "in balance", 0.55, "100.0%"),
        ([0.5, 0.55, 0.45, 0.5, 0.51], "learned nothing", 0.505, "55.0%"),
        ([0.5, 0.56, 0.45, 0.5, 0.5], "in balance", 0.5, "56.0%"),
        ([1.0], "collapsed", 1.0, "100.0%"),
    ],
)
def test_health_of_a_discriminator(accuracies, state, last_quarter, words):
    (health,) = analysis.discriminator_health(epochs(accuracies), ["resnet8"])
    advice = health.pop("advice")
    assert words in advice and "\n" not in advice
    assert ("--afd_learning_rate" in advice) == (state != "in balance")
    assert health == {
        "peer": "peer_0",
        "name": "resnet8",
        "epochs": list(range(1, len(accuracies) + 1)),
        "accuracy": accuracies,
        "real": [value - 0.01 for value in accuracies],
        "fake": [value + 0.01 for value in accuracies],
        "last_quarter": pytest.approx(last_quarter),
        "highest": max(accuracies),
        "state": state,
    }
    json.dumps(health)


def test_some_peers_have_no_discriminator():
    metrics = epochs([0.7, 0.8], peer=1)
    assert analysis.discriminator_health(metrics, ["a"]) is None
    assert analysis.discriminator_health([], ["a", "b"]) is None
    (health,) = analysis.discriminator_health(metrics, ["a", "b", "c"])
    assert (health["peer"], health["name"]) == ("peer_1", "b")


def test_accuracy_without_its_halves():
    key = "train/peer_0/discriminator_accuracy"
    metrics = [{"epoch": 1}, {"epoch": 2, key: 0.8}, {"epoch": 3, key: 0.9}]
    health = analysis.discriminator_health(metrics, ["a"])
    assert health[0]["epochs"] == [2, 3] and health[0]["real"] == [None, None]
    drawn(analysis.discriminator_figure(health))


def drawn(figure):
    """Draws a figure; returns its pixels [h, w, channels]."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer))


def boxes(figure, texts):
    """Returns where texts lie, as [left, bottom, right, top] in pixels."""
    drawn(figure)
    return [text.get_window_extent().extents for text in texts if text.get_text()]


def overlap(first, second):
    return (
        min(first[2], second[2]) > max(first[0], second[0]) + 1
        and min(first[3], second[3]) > max(first[1], second[1]) + 1
    )


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 40, 3), (40, 16, 3)])
def test_nothing_in_a_panel_overlaps(shape):
    class_names = ["a" * 30, "$5 note", "apple, or pear", "x", "no $ or a $"]
    seen = analysis.GradCam(
        np.random.default_rng(0).random((3, *shape[:2])),
        np.array([0, 1, 2]),
        np.array([1, 0.5, 0.255]),
    )
    figure = analysis.grad_cam_figure(
        exports.pictures(shape, 3),
        titles=["a long name of a class", "b" * 40, "c"],
        labels=[0, 1, 1],
        results={"a_very_long_name_of_a_run/wrn_28_10 (peer_0)": seen, "x": seen},
        class_names=class_names,
        explained="predicted class",
    )
    cells = figure.axes
    assert len(cells) == 9
    colors = [cell.xaxis.label.get_color() for cell in cells if cell.get_xlabel()]
    assert colors == ["black", "black", "black", "black", "firebrick", "firebrick"]
    places = boxes(
        figure,
        [
            *figure.texts,
            *(cell.title for cell in cells),
            *(cell.xaxis.label for cell in cells),
            *(cell.yaxis.label for cell in cells),
        ],
    )
    assert len(places) == 1 + 3 + 6 + 3
    places += [cell.get_window_extent().extents for cell in cells]
    height, width, _ = drawn(figure).shape
    for number, place in enumerate(places):
        assert place[0] >= 0 and place[1] >= 0, place
        assert place[2] <= width and place[3] <= height, place
        assert not any(overlap(place, other) for other in places[:number]), place


@pytest.mark.parametrize("count", [2, 3, 7])
def test_heat_maps_show_every_number(count):
    names = [f"a_long_name_of_run_{number}/resnet8 $" for number in range(count)]
    pairs = [
        {
            "networks": (first, second),
            "cka": -0.01 * second,
            "cosine": None if second == 1 else 0.1 * second,
        }
        for first in range(count)
        for second in range(first + 1, count)
    ]
    figure = analysis.similarity_figure(pairs, names)
    # Where no two maps have one shape, there is no cosine to show.
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == ["linear CKA", "mean cosine"][
        : 1 + (count > 2)
    ]
    texts = np.array([text.get_text() for text in maps[0].texts])
    expected = np.array(
        [
            ["1.000" if a == b else f"{-0.01 * max(a, b):.3f}" for a in range(count)]
            for b in range(count)
        ]
    )
    np.testing.assert_array_equal(texts.reshape(count, count), expected)
    places = boxes(figure, [*maps[0].texts, *maps[0].get_yticklabels()])
    assert not any(
        overlap(place, other)
        for number, place in enumerate(places)
        for other in places[:number]
    )
