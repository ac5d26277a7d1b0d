"""Names of networks: their parts, and what cannot be one."""

import pytest

from afd_tf.base.errors import UserError
from afd_tf.models.network_name import parse_network_name


@pytest.mark.parametrize(
    ("text", "parts", "short"),
    [
        ("resnet20", ("", "resnet20", None), "resnet20"),
        (
            "efficientnet_lite0@imagenet",
            ("", "efficientnet_lite0", "imagenet"),
            "efficientnet_lite0",
        ),
        ("resnet8@/a/b:c@d.h5", ("", "resnet8", "/a/b:c@d.h5"), "resnet8"),
        ("keras:ResNet50", ("keras", "ResNet50", None), "ResNet50"),
        ("keras:VGG16@w.h5", ("keras", "VGG16", "w.h5"), "VGG16"),
        ("file:/a@b/my model.keras", ("file", "/a@b/my model.keras", None), "my_model"),
        ("file:~/ä.keras", ("file", "~/ä.keras", None), "_"),
        ("hub:/presets/x/", ("hub", "/presets/x/", None), "x"),
        ("python:a.b:make", ("python", "a.b:make", None), "make"),
        ("python:a:f@w.h5", ("python", "a:f", "w.h5"), "f"),
    ],
)
def test_parts(text, parts, short):
    network = parse_network_name(text)
    assert network == parts
    assert network.short == short


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kears:ResNet50", r"unknown kind of network 'kears:'.*Known: keras:, hub:"),
        ("keras:", "no name of a network: .* keras.applications"),
        ("resnet20@", "NAME@imagenet for published weights"),
        ("@imagenet", "no name of a network"),
        ("file:", "a saved Keras model"),
        ("", "no name of a network"),
    ],
)
def test_what_is_no_name(text, message):
    with pytest.raises(UserError, match=message):
        parse_network_name(text)
