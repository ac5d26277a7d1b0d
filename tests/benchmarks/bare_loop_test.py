"""The bare loop beside which speed is measured computes what the method does."""

import numpy as np
import tensorflow as tf

from afd_tf.benchmarks.bare_loop import BareTraining
from afd_tf.distill.methods.afd import AdversarialFeatureDistillation
from tests import tiny


def test_the_bare_loop_is_the_same_mathematics():
    method = AdversarialFeatureDistillation(tiny.peers("resnet8", "resnet14"))
    method.compile(epochs=100, steps_per_epoch=100)
    bare = BareTraining(method)
    ours = tf.function(method.take_step, autograph=False)
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
