"""Networks of all kinds, rebuilt of Keras' own layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf import models
from afd_tf.artifacts import keras_file
from afd_tf.artifacts.keras_graph_copy import to_functional
from afd_tf.base.errors import UserError
from tests import exports, tiny


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("wrn_10_1", 8),
        ("vgg8", 16),
        ("mobilenet_v2_50", 32),
        ("shufflenet_v2_50", 32),
        ("imagenet_resnet18_small", 16),
        ("efficientnet_lite0", 32),
        # A graph of Keras, with squeeze and excitation and other activations.
        ("keras:MobileNetV3Small", 32),
        # Depthwise convolutions, which Keras computes as grouped ones, and cut-outs.
        ("python:tests.models.foreign_models:cropped", 16),
        # Pixels with the channels in reverse.
        ("keras:VGG16", 32),
    ],
)
def test_the_copy_computes_the_same(name, size, tmp_path):
    info = tiny.info((size, size, 3))
    peer = exports.random_peer(name, info)
    images = exports.random_images((size, size, 3), 5)
    model = to_functional(peer, (size, size, 3))
    expected = peer(images, training=False)
    np.testing.assert_allclose(
        model.predict_on_batch(images), tf.nn.softmax(expected.logits), atol=1e-4
    )
    # Its file is read again, as it holds no layer that the reader refuses.
    keras_file.write(peer, info, {}, tmp_path / "model.keras")
    _, read = keras_file.read(tmp_path / "model.keras")
    np.testing.assert_allclose(
        np.exp(read(images)), model.predict_on_batch(images), atol=1e-6
    )
    maps = keras.Model(
        model.input,
        [model.get_layer(each).output for each in ("features", "classifier")],
    )
    features, logits = maps(images)
    assert np.abs(expected.features).max() > 0
    for actual, own in ((features, expected.features), (logits, expected.logits)):
        np.testing.assert_allclose(
            actual, own, rtol=0, atol=1e-4 * np.abs(own).max(), err_msg=name
        )
    for stage in peer.stages[:-1]:
        assert tuple(model.get_layer(stage).output.shape[1:]) == peer.tap_shapes[stage]
    classes = [*map(type, model.layers)]
    assert not any(each.__module__.startswith("afd_tf") for each in classes)
    # Each weight once; what Keras' normalization has besides are moving statistics.
    assert sum(
        int(np.prod(each.shape)) for each in model.trainable_weights
    ) == pytest.approx(peer.parameters, rel=0.01)


def test_an_operation_without_a_layer_is_named():
    class Strange(keras.layers.Layer):
        def call(self, inputs):
            return tf.math.bessel_i0(inputs)

    info = tiny.info()
    peer = models.Peer(
        num_classes=5,
        mean=info.mean,
        variance=info.variance,
        downsampling=1,
        body={"last": Strange()},
        name="strange",
    )
    peer.build_for(info.image_shape)
    with pytest.raises(UserError, match=r"strange cannot .* BesselI0 .*Leave keras"):
        to_functional(peer, info.image_shape)
