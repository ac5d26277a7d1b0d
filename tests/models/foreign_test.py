"""Foreign models by name: what is loaded, and what is refused."""

import sys

import numpy as np
import pytest

from afd_tf.base.errors import UserError
from afd_tf.models import build_peer, foreign
from tests import exports, tiny

INFO = tiny.info((32, 32, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file:nowhere.keras", "there is no file nowhere.keras"),
        ("python:tests.models", "names no function: expected is python:package"),
        ("python:no_such_module:f", r"no_such_module cannot be imported .*PYTHONPATH"),
        (
            "python:tests.models.foreign_models:backbon",
            "no function backbon. Did you mean 'backbone'",
        ),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        build_peer(name, INFO)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"cannot be read as a Keras model: .*python:"):
        build_peer(f"file:{path}", INFO)


def test_keras_hub_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-hub\.txt"):
        build_peer("hub:resnet_18_imagenet", INFO)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A folder with a preset of a small ResNet and the pixels that it expects."""
    keras_hub = pytest.importorskip("keras_hub", reason="requirements-hub.txt")
    folder = tmp_path_factory.mktemp("presets") / "small_resnet"
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    )
    backbone.save_to_preset(str(folder))
    keras_hub.layers.ResNetImageConverter(
        image_size=(32, 32), scale=[0.5, 0.25, 0.125], offset=[-1.0, -2.0, 3.0]
    ).save_to_preset(str(folder))
    return folder, backbone


def test_a_preset_on_disk(preset):
    folder, backbone = preset
    peer = build_peer(f"hub:{folder}", INFO)
    assert (peer.name, peer.pretrained) == ("small_resnet", True)
    assert list(peer.tap_shapes.values()) == [(16, 16, 64), (8, 8, 64), (4, 4, 64)]
    images = exports.random_images((32, 32, 3), 2)
    pixels = images * [0.5, 0.25, 0.125] + [-1.0, -2.0, 3.0]
    np.testing.assert_allclose(
        peer(images).features, backbone(pixels.astype(np.float32)), rtol=1e-4, atol=1e-4
    )
    again = build_peer("hub:/lost", INFO, initial_weights=False, record=peer.record)
    assert [v.shape for v in again.variables] == [v.shape for v in peer.variables]
    assert again.normalization.mean == peer.normalization.mean


def test_a_preset_is_refused_soon_without_a_network(preset, monkeypatch):
    monkeypatch.setattr(foreign, "unreachable_reason", lambda urls: "it is away")
    with pytest.raises(
        UserError, match=r"no folder resnet_x, .* downloaded: it is away"
    ):
        build_peer("hub:resnet_x", INFO)
