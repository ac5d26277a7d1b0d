"""Changes for 8 bits: exact in float32, and more accurate when rounded."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from afd_tf.artifacts import quantization, tflite
from afd_tf.models.layers import ConvolutionBlock
from tests import tiny


def random_images(count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def rounded(kernel):
    """Whole numbers -127..127 times a scale for each output channel."""
    scale = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    whole = np.rint(kernel / scale)
    assert np.abs(whole).max() == 127
    return (whole * scale).astype(np.float32)


def moving_means(peer):
    return [
        each.numpy() for each in peer.variables if each.name.startswith("moving_mean")
    ]


def test_rounded_weights_leave_the_mean_of_every_channel_where_it_was():
    (peer,) = tiny.peers("resnet8")
    images = random_images(150)
    block = peer.body["stage_1"].layers[0].first
    inputs = peer.body["stem"](peer.normalization(images))
    kernel = block.convolution.kernel.numpy()
    before = moving_means(peer)
    expected = tf.nn.conv2d(inputs, kernel, 1, "SAME") - block.normalization.moving_mean
    with quantization.bias_corrected(peer, images):
        mean = block.normalization.moving_mean.numpy()
        np.testing.assert_array_equal(block.convolution.kernel.numpy(), kernel)
    in_8_bits = tf.nn.conv2d(inputs, rounded(kernel), 1, "SAME")
    np.testing.assert_allclose(
        tf.reduce_mean(in_8_bits - mean, (0, 1, 2)),
        tf.reduce_mean(expected, (0, 1, 2)),
        atol=1e-5,
    )
    uncorrected = tf.reduce_mean(
        in_8_bits - block.normalization.moving_mean - expected, (0, 1, 2)
    )
    assert np.abs(uncorrected).max() > 1e-4
    for kept, now in zip(before, moving_means(peer), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_a_network_is_as_before_after_an_error():
    (peer,) = tiny.peers("small")
    before, images = moving_means(peer), random_images(3)
    logits = peer(images).logits.numpy()
    with pytest.raises(KeyError), quantization.bias_corrected(peer, images):
        raise KeyError
    with pytest.raises(KeyError), quantization.normalizing_in_one_operator(peer):
        raise KeyError
    for kept, now in zip(before, moving_means(peer), strict=True):
        np.testing.assert_array_equal(kept, now)
    np.testing.assert_array_equal(peer(images).logits, logits)


def test_kernels_that_are_not_rounded_are_not_corrected():
    (peer,) = tiny.peers("small")
    blocks = [x for x in peer._flatten_layers() if isinstance(x, ConvolutionBlock)]
    with quantization.bias_corrected(peer, random_images(2), smallest=1024):
        for block in blocks:
            moved = np.abs(block.normalization.moving_mean.numpy()).max() > 0
            assert moved == (np.prod(block.convolution.kernel.shape) >= 1024)


def test_one_operator_normalizes_as_two():
    (peer,) = tiny.peers("small")
    images = random_images(4).astype(np.float32)
    expected = peer.normalization(images).numpy()
    with quantization.normalizing_in_one_operator(peer):
        np.testing.assert_allclose(peer.normalization(images), expected, atol=1e-6)


@pytest.fixture(scope="module")
def settled():
    """A peer with statistics of its own images, as a trained network has them."""
    (peer,) = tiny.peers("resnet14")
    run = tf.function(peer, autograph=False)
    for _ in range(60):
        run(tf.constant(random_images(64)), training=True)
    return peer


# The logits of int8 are multiples of a step, and so is what moves their median.
@pytest.mark.parametrize(("kind", "left"), [("dynamic", 0.2), ("int8", 0.5)])
def test_a_file_errs_to_both_sides_alike(kind, left, settled, tmp_path, monkeypatch):
    peer = settled
    bias = peer.classifier.bias.numpy()
    images = random_images(100)
    expected = peer(images).logits.numpy()

    def median_error():
        file = tmp_path / "model.tflite"
        tflite.write(
            peer,
            tiny.description("resnet14", tiny.info(), kind),
            file,
            quantization=kind,
            images=images,
            with_logits=True,
        )
        signature = Interpreter(str(file)).get_signature_runner("serving_default")
        logits = [signature(image=image[np.newaxis])["logits"][0] for image in images]
        return np.abs(np.median(logits - expected, axis=0)).mean()

    corrected = median_error()
    np.testing.assert_array_equal(peer.classifier.bias.numpy(), bias)
    # Of the maps alone, then of nothing.
    monkeypatch.setattr(tflite, "shifted", lambda *_: contextlib.nullcontext())
    maps_corrected = median_error()
    monkeypatch.setattr(
        quantization, "_rounding_error", lambda layer: 0 * layer.kernel.numpy()
    )
    uncorrected = median_error()
    assert corrected < left * maps_corrected
    assert maps_corrected < 0.9 * uncorrected


@pytest.mark.parametrize(
    "side, count, sizes",
    [(8, 250, [100, 100, 50]), (224, 25, [10, 10, 5]), (1000, 3, [1, 1, 1])],
)
def test_large_images_come_in_small_batches(side, count, sizes):
    images = np.zeros((count, side, side, 1), np.uint8)
    assert [len(batch) for batch in quantization.in_batches(images)] == sizes
