"""The bare loop that speed is measured against computes what the method does."""

import json

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from afd_tf import benchmark
from afd_tf.distill.afd import AdversarialFeatureDistillation
from afd_tf.errors import UserError
from tests import tiny


def test_the_bare_loop_is_the_same_mathematics():
    method = AdversarialFeatureDistillation(tiny.peers("resnet8", "resnet14"))
    method.compile(epochs=100, steps_per_epoch=100)
    bare = benchmark.BareTraining(method)
    ours = tf.function(method.train_step, autograph=False)
    theirs = tf.function(bare.step, autograph=False)
    for seed in range(3):
        batch = tiny.batch(seed)
        metrics = ours(batch)
        losses = theirs(batch["image"], batch["label"])
        for number, loss in enumerate(losses):
            np.testing.assert_allclose(
                metrics[f"peer_{number}/loss_logit"], loss, rtol=1e-4
            )
    for peer, copy in zip(method.peers, bare.peers, strict=True):
        np.testing.assert_allclose(
            peer.classifier.kernel.numpy(), copy.kernel.numpy(), rtol=1e-3, atol=1e-5
        )


def test_other_networks_than_the_bare_loops_are_refused():
    with (
        flagsaver.as_parsed(dataset="digits", peers="resnet8,wrn_10_1"),
        pytest.raises(UserError, match="two CIFAR ResNets only"),
    ):
        benchmark.main(["benchmark"])


def test_a_measurement_ends_with_its_figures(capsys):
    settings = {"dataset": "digits", "peers": "resnet8,resnet8", "batch_size": "16"}
    with flagsaver.as_parsed(**settings, rounds="2", steps="1"):
        benchmark.main(["benchmark"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    ours, bare = (result["images_per_second"][name] for name in ("afd_tf", "bare"))
    ratios = np.divide(ours, bare)
    assert result["ratio_to_bare"]["median"] == pytest.approx(np.median(ratios), 0.02)
    assert result["input_to_step"] == pytest.approx(
        result["input_images_per_second"] / np.median(ours), 0.02
    )
