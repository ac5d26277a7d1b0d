"""keras.applications: the pixels that each network expects, and its downloads."""

import importlib
import sys
import time

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from afd_tf.base.errors import UserError
from afd_tf.models import applications, build_peer
from tests import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.float32)

# Networks with their normalization inside → a tiny one of the same builder.
INSIDE = {
    "ConvNeXt": ("ConvNeXt", {"depths": [1] * 4, "projection_dims": [8] * 4}),
    "EfficientNetB": (
        "EfficientNet",
        {
            "width_coefficient": 0.1,
            "depth_coefficient": 0.1,
            "default_size": 40,
            "weights_name": "b0",
        },
    ),
    "EfficientNetV2B": (
        "EfficientNetV2",
        {
            "width_coefficient": 0.1,
            "depth_coefficient": 0.1,
            "default_size": 40,
            "name": "efficientnetv2-b0",
        },
    ),
    "EfficientNetV2": (
        "EfficientNetV2",
        {
            "width_coefficient": 0.1,
            "depth_coefficient": 0.1,
            "default_size": 40,
            "name": "efficientnetv2-s",
        },
    ),
    "MobileNetV3": (None, {}),
}


def module_of(name):
    return sys.modules[getattr(keras.applications, name).__module__]


def public_module_of(name):
    return importlib.import_module(
        f"keras.applications.{module_of(name).__name__.rpartition('.')[2]}"
    )


def normalized(pixels: applications.Pixels) -> np.ndarray:
    images = IMAGES[..., ::-1] if pixels.reverse else IMAGES
    return (images - np.array(pixels.mean)) / np.sqrt(pixels.variance)


def kind_of(name) -> str | None:
    kinds = [kind for kind in INSIDE if name.startswith(kind)]
    return max(kinds, key=len, default=None)


@pytest.mark.parametrize("name", applications.names())
def test_a_network_gets_the_pixels_of_its_published_function(name):
    """Those with the normalization inside have a function that does nothing."""
    published = public_module_of(name).preprocess_input(IMAGES.copy())
    if kind_of(name):
        np.testing.assert_array_equal(published, IMAGES)
        return
    np.testing.assert_allclose(
        normalized(applications.published_pixels(name)), published, atol=1e-4
    )


@pytest.mark.parametrize("kind", INSIDE)
def test_a_network_with_its_normalization_inside_has_that_one(kind, monkeypatch):
    name = next(name for name in applications.names() if kind_of(name) == kind)
    builder, settings = INSIDE[kind]
    common = {"include_top": False, "weights": None, "input_shape": (40, 40, 3)}
    if kind == "EfficientNetB":
        # The weights' file has the statistics of the normalization, with deviations
        # where there should be variances; a second factor makes up for it.
        common["weights"] = "imagenet"
        monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: "file")

        def load(model, path):
            (layer,) = [
                x for x in model.layers if isinstance(x, keras.layers.Normalization)
            ]
            layer.mean = keras.ops.array([[[[0.485, 0.456, 0.406]]]])
            layer.variance = keras.ops.array([[[[0.229, 0.224, 0.225]]]])

        monkeypatch.setattr(keras.Model, "load_weights", load)
    if builder is None:
        model = keras.applications.MobileNetV3Small(alpha=0.25, **common)
    else:
        model = getattr(module_of(name), builder)(**settings, **common)
    inside = keras.Model(model.inputs, last_normalization(model))
    np.testing.assert_allclose(
        inside(IMAGES), normalized(applications.published_pixels(name)), atol=1e-4
    )


def last_normalization(model):
    """The output of the last layer that normalizes pixels, by hand."""
    kinds = (keras.layers.Rescaling, keras.layers.Normalization, keras.Sequential)
    found = None
    for layer in model.layers[1:]:
        if not isinstance(layer, kinds) or "stem" in layer.name.split("_")[-1]:
            break
        found = layer.output
    return found


def test_every_network_has_pixels():
    assert len(applications.names()) >= 38
    for name in applications.names():
        assert len(applications.published_pixels(name).mean) == 3


def test_weights_are_announced_and_refused_soon_without_a_network(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(applications, "unreachable_reason", lambda urls: "it is away")
    start = time.monotonic()
    with pytest.raises(
        UserError,
        match=r"weights of MobileNet@imagenet are at https://\S+, and it is away\. "
        r"Put that file at \S+mobilenet_1_0_224_tf_no_top\.h5, .*efficientnet_lite0@",
    ):
        build_peer("keras:MobileNet@imagenet", tiny.info((32, 32, 3)))
    assert time.monotonic() - start < 15
    # With a network: what, how large, and where to.
    monkeypatch.setattr(applications, "unreachable_reason", lambda urls: None)
    monkeypatch.setattr(applications, "_size", lambda url: ", 17.2 MB,")

    def failing(fname, origin, **kwargs):
        raise ValueError("Incomplete or corrupted file detected.")

    monkeypatch.setattr(file_utils, "get_file", failing)
    with pytest.raises(UserError, match=r"could not be downloaded .*corrupted"):
        build_peer("keras:MobileNet@imagenet", tiny.info((32, 32, 3)))
    said = capfd.readouterr().err
    assert "downloading the weights of MobileNet, 17.2 MB, from https://" in said
    assert f"to {tmp_path}" in said
    assert file_utils.get_file is failing


def test_downloaded_weights_are_loaded(tmp_path, monkeypatch):
    shape = (32, 32, 3)
    network = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=shape
    )
    path = tmp_path / "w.weights.h5"
    network.save_weights(path)
    monkeypatch.setattr(applications, "unreachable_reason", lambda urls: None)
    monkeypatch.setattr(applications, "_size", lambda url: "")
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: path)
    images = IMAGES[:, :32, :32]
    expected = network(images / 127.5 - 1, training=False).numpy()
    for name in ("keras:MobileNet@imagenet", f"keras:MobileNet@{path}"):
        peer = build_peer(name, tiny.info(shape))
        assert peer.pretrained
        features = peer(images.astype(np.uint8)).features
        np.testing.assert_allclose(features, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("MobileNetV3Smal", 32, "Did you mean 'MobileNetV3Small'"),
        ("MobileNet", 16, "MobileNet cannot be built for images of 16x16x3: .*32x32"),
        ("MobileNet@nowhere.h5", 32, r"no file of weights nowhere\.h5 for MobileNet"),
    ],
)
def test_what_cannot_be_built(name, side, message):
    with pytest.raises(UserError, match=message):
        build_peer(f"keras:{name}", tiny.info((side, side, 3)))
