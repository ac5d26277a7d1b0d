"""EfficientNet-Lite: the published numbers of parameters, and its own layers."""

import numpy as np
import pytest

from afd_tf.base.errors import UserError
from afd_tf.models import build_peer, multiply_adds
from tests import tiny


@pytest.mark.parametrize(
    ("number", "published"),
    # Of efficientnet-lite-pytorch; the project's page rounds them to 4.65, 5.42, 6.09,
    # 8.20 and 13.0 million.
    list(enumerate((4_652_008, 5_416_680, 6_092_072, 8_197_096, 13_006_568))),
)
def test_parameters_for_imagenet(number, published):
    peer = build_peer(
        f"efficientnet_lite{number}", tiny.info((32, 32, 3), classes=1000)
    )
    assert peer.parameters == published
    head = 1281 * 1000
    assert sum(np.prod(v.shape) for v in peer.head_variables) == head
    assert sum(np.prod(v.shape) for v in peer.feature_variables) == published - head
    blocks = [block for *_, block in peer.published_blocks()]
    assert {block.normalization.epsilon for block in blocks} == {1e-3}
    kernels = {id(block.convolution.kernel) for block in blocks}
    assert kernels == {id(v) for v in peer.feature_variables if len(v.shape) == 4}


def test_multiply_adds_are_the_published_ones():
    peer = build_peer("efficientnet_lite0", tiny.info((224, 224, 3), classes=1000))
    # The project's page says 407 million, of 224x224 pixels.
    assert multiply_adds(peer, (224, 224, 3)) == pytest.approx(407e6, rel=0.06)


def test_no_map_behind_an_activation_is_above_six():
    peer = build_peer("efficientnet_lite0", tiny.info((32, 32, 3)))
    block = peer.body["stem"]
    block.normalization.gamma.assign(100.0 * np.ones(32))
    taps = peer.taps(tiny.batch(image_shape=(32, 32, 3))["image"], training=True)
    assert taps["stem"].numpy().max() == 6
    assert taps["stem"].numpy().min() == 0
    assert 0 <= taps["features"].numpy().min() < taps["features"].numpy().max() <= 6


def test_other_numbers_are_refused():
    with pytest.raises(
        UserError, match=r"no EfficientNet-Lite5: .*efficientnet_lite4."
    ):
        build_peer("efficientnet_lite5", tiny.info())
