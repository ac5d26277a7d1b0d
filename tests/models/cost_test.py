"""Multiply-adds against counts by hand."""

from afd_tf import models
from afd_tf.models import build_peer, multiply_adds
from afd_tf.models.layers import depthwise_convolution
from tests import tiny


def test_multiply_adds_by_hand():
    # 8x8x3 images, resnet8: stem; stage 1 at 8x8; stages 2, 3 halve each.
    peer = build_peer("resnet8", tiny.info())
    stem = 64 * 9 * 3 * 16
    first = 2 * 64 * 9 * 16 * 16
    second = 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)
    third = 4 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    head = 64 * tiny.CLASSES
    assert multiply_adds(peer, (8, 8, 3)) == stem + first + second + third + head


def test_multiply_adds_of_imagenet_by_hand():
    peer = build_peer("imagenet_resnet18", tiny.info((32, 32, 3), classes=1000))
    stem = 112 * 112 * 7 * 7 * 3 * 64
    first = 4 * 56 * 56 * 9 * 64 * 64
    # Half the size, twice the channels: the other stages cost the same.
    later = 28 * 28 * (9 * 64 * 128 + 3 * 9 * 128 * 128 + 64 * 128)
    head = 512 * 1000
    counted = multiply_adds(peer, (224, 224, 3))
    assert counted == stem + first + 3 * later + head == 1_814_073_344


def test_multiply_adds_of_a_depthwise_convolution_by_hand():
    peer = models.Peer(
        num_classes=5,
        mean=(0.0,) * 3,
        variance=(1.0,) * 3,
        downsampling=2,
        body={"stage_1": depthwise_convolution(strides=2)},
    )
    peer.build_for((8, 8, 3))
    assert multiply_adds(peer, (8, 8, 3)) == 4 * 4 * 3 * 9 + 3 * 5
