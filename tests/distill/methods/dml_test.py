"""Deep mutual learning against NumPy, in every form."""

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from afd_tf.distill.methods.dml import MutualLearning
from afd_tf.distill.methods.independent import Independent
from tests import tiny


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize(
    ("topology", "teachers"),
    [("mutual", [[1, 2], [0, 2], [0, 1]]), ("cyclic", [[2], [0], [1]])],
)
def test_the_loss_against_numpy(topology, teachers, squared, reduction):
    method = MutualLearning(
        tiny.peers(*["small"] * 3),
        topology=topology,
        temperature=2.0,
        temperature_squared=squared,
        label_weight=0.7,
        logit_weight=0.3,
        teacher_reduction=reduction,
    )
    labels, outputs = tiny.batch()["label"], tiny.planted(*method.peers)
    values, monitors = method.compute_losses(labels, outputs)
    for number, output in enumerate(outputs):
        found = [
            tiny.divergence(outputs[j].logits, output.logits, 2.0)
            for j in teachers[number]
        ]
        divergence = (np.mean if reduction == "mean" else np.sum)(found, axis=0)
        divergence = divergence * (4.0 if squared else 1.0)
        entropy = tiny.cross_entropy(labels, output.logits)
        np.testing.assert_allclose(
            values[f"peer_{number}/logit"], 0.7 * entropy + 0.3 * divergence, rtol=1e-5
        )
        np.testing.assert_allclose(
            monitors[f"peer_{number}/loss_divergence"], divergence, rtol=1e-4
        )


def test_the_published_form_by_flags():
    published = {
        "temperature": "1",
        "temperature_squared": "false",
        "teacher_reduction": "sum",
    }
    with flagsaver.as_parsed(method="dml", **published):
        method = methods.method_from_flags(tiny.peers("small", "small", "small"))
    assert method.teachers == [(1, 2), (0, 2), (0, 1)]
    labels, outputs = tiny.batch()["label"], tiny.planted(*method.peers)
    values, _ = method.compute_losses(labels, outputs)
    expected = tiny.cross_entropy(labels, outputs[0].logits) + sum(
        tiny.divergence(outputs[j].logits, outputs[0].logits, 1.0) for j in (1, 2)
    )
    np.testing.assert_allclose(values["peer_0/logit"], expected, rtol=1e-5)


def test_mutual_learning_without_divergence_is_independent():
    batch = tiny.batch()
    mutual = tiny.compiled(MutualLearning(tiny.small_peers(), logit_weight=0.0))
    independent = tiny.compiled(Independent(tiny.small_peers()))
    mutual.take_step(batch)
    independent.take_step(batch)
    for one, other in zip(mutual.variables, independent.variables, strict=True):
        np.testing.assert_array_equal(one.value.numpy(), other.value.numpy())


def test_refusals():
    peers = tiny.small_peers()
    with pytest.raises(UserError, match="above 0"):
        MutualLearning(peers, temperature=0.0)
    with pytest.raises(UserError, match="Did you mean 'mean'"):
        MutualLearning(peers, teacher_reduction="means")
