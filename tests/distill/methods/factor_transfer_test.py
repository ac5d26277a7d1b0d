"""Factor transfer against NumPy."""

import numpy as np
import tensorflow as tf
from absl.testing import flagsaver

from afd_tf.distill import methods
from afd_tf.distill.methods.factor_transfer import factor_distance
from tests import tiny


def build():
    with flagsaver.as_parsed(method="factor_transfer"):
        return methods.method_from_flags(tiny.peers("resnet8"), tiny.frozen("wrn_10_2"))


def test_distance_by_hand():
    # (3, 4) / 5 and (1, 0): |0.6 - 1| + |0.8 - 0|, over two elements.
    own, other = tf.constant([[[[3.0, 4.0]]]]), tf.constant([[[[2.0, 0.0]]]])
    np.testing.assert_allclose(factor_distance(own, other), [0.6], rtol=1e-6)


def test_the_loss_against_numpy():
    method = build()
    labels = tiny.batch()["label"]
    outputs = tiny.planted(*method.peers, *method.frozen_teachers)
    values, _ = method.compute_losses(labels, outputs)

    def factor(network, output):
        flat = network(output.features).numpy().astype(np.float64).reshape(8, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    own = factor(method.translators[0], outputs[0])
    taught = factor(method.encoder, outputs[1])
    # Half of the teacher's 128 channels at 2x2.
    assert own.shape == taught.shape == (8, 2 * 2 * 64)
    np.testing.assert_allclose(
        values["peer_0/logit"],
        tiny.cross_entropy(labels, outputs[0].logits)
        + 500 * np.abs(own - taught).mean(axis=1),
        rtol=1e-4,
    )


def test_convolutions_are_3x3_with_a_leak_of_a_tenth():
    method = build()
    shapes = [layer.kernel.shape for layer in method.encoder.layers]
    assert shapes == [(3, 3, 128, 128), (3, 3, 128, 64), (3, 3, 64, 64)]
    # Transposed kernels have their output before their input.
    shapes = [layer.kernel.shape for layer in method.decoder.layers]
    assert shapes == [(3, 3, 64, 64), (3, 3, 128, 64), (3, 3, 128, 128)]
    shapes = [layer.kernel.shape for layer in method.translators[0].layers]
    assert shapes == [(3, 3, 64, 64), (3, 3, 64, 64), (3, 3, 64, 64)]
    first = method.encoder.layers[0]
    maps = tiny.planted(*method.frozen_teachers)[0].features
    output = first(maps).numpy()
    assert output.min() < 0
    kernel = first.kernel.numpy()
    # The corner position sees the lower right 2x2 of the kernel.
    value = np.einsum("hwc,hwcd->d", maps[0, :2, :2], kernel[1:, 1:]) + first.bias
    np.testing.assert_allclose(
        output[0, 0, 0], np.where(value > 0, value, 0.1 * value), rtol=1e-4, atol=1e-6
    )


def test_the_paraphraser_is_trained_first_and_then_stays():
    method = tiny.compiled(build())
    assert method.warmup_epochs == 5
    paraphraser = [*method.encoder.variables, *method.decoder.variables]
    batch = tiny.batch()
    method.warming_up = True
    outputs = method.teacher_outputs(batch["image"])
    features = outputs[0].features.numpy()
    rebuilt = method.decoder(method.encoder(features)).numpy()
    before, own = tiny.values(paraphraser), tiny.values(method.peers[0].variables)
    metrics = method.take_step(batch)
    np.testing.assert_allclose(
        metrics["teacher_0/loss_paraphraser"],
        np.abs(rebuilt - features).mean(),
        rtol=1e-4,
    )
    for old, variable in zip(before, paraphraser, strict=True):
        assert not np.array_equal(old, variable.numpy())
    for old, variable in zip(own, method.peers[0].variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    method.warming_up = False
    before = tiny.values(paraphraser)
    method.take_step(batch)
    for old, variable in zip(before, paraphraser, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
