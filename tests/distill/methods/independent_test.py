"""Peers that learn alone."""

import numpy as np

from afd_tf.distill.methods.independent import Independent
from afd_tf.distill.recipes import Recipe
from tests import tiny

RECIPE = Recipe("sgd", learning_rate=0.05, decay=1e-3)


def test_the_loss_is_the_cross_entropy():
    method = Independent(tiny.peers("small", "small_wide"))
    labels, outputs = tiny.batch()["label"], tiny.planted(*method.peers)
    values, _ = method.compute_losses(labels, outputs)
    for number, output in enumerate(outputs):
        np.testing.assert_allclose(
            values[f"peer_{number}/logit"],
            tiny.cross_entropy(labels, output.logits),
            rtol=1e-5,
        )


def test_independent_peers_are_each_alone():
    pair = tiny.compiled(Independent(tiny.peers("small", "small_wide"), recipe=RECIPE))
    alone = tiny.compiled(
        Independent([tiny.peers("small", "small_wide")[0]], recipe=RECIPE)
    )
    for seed in range(2):
        pair.take_step(tiny.batch(seed))
        alone.take_step(tiny.batch(seed))
    for one, other in zip(
        pair.peers[0].variables, alone.peers[0].variables, strict=True
    ):
        np.testing.assert_allclose(
            one.value.numpy(), other.value.numpy(), rtol=1e-5, atol=1e-6
        )
