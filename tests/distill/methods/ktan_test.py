"""KTAN against NumPy."""

import numpy as np
from absl.testing import flagsaver

from afd_tf.distill import methods
from tests import tiny


def build():
    flags = {"ktan_map_weight": "0.7", "ktan_adversarial_weight": "0.2"}
    with flagsaver.as_parsed(method="ktan", **flags):
        return methods.method_from_flags(tiny.peers("small"), tiny.frozen("small_wide"))


def test_the_losses_against_numpy():
    method = build()
    labels = tiny.batch()["label"]
    student, teacher = outputs = tiny.planted(*method.peers, *method.frozen_teachers)
    values, monitors = method.compute_losses(labels, outputs)
    adapted = method.adaptations[0](teacher.features, training=False).numpy()
    fake = method.discriminators[0](student.features, training=True).numpy()
    real = method.discriminators[0](adapted, training=True).numpy()
    difference = student.features.numpy().astype(np.float64) - adapted
    np.testing.assert_allclose(
        values["peer_0/logit"],
        0.1 * tiny.cross_entropy(labels, student.logits)
        + 0.9 * 16 * tiny.divergence(teacher.logits, student.logits, 4.0)
        + 0.7 * (difference**2).mean(axis=(1, 2, 3))
        + 0.2 * (1 - fake) ** 2,
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        values["peer_0/discriminator"], (1 - real) ** 2 + fake**2, rtol=1e-5
    )
    np.testing.assert_allclose(
        monitors["peer_0/discriminator_accuracy_fake"], fake < 0.5
    )


def test_the_teacher_to_student_layer_is_trained_first_and_then_stays():
    method = tiny.compiled(build())
    assert method.warmup_epochs == 5
    batch = tiny.batch()
    outputs = method.teacher_outputs(batch["image"])
    layers = [method.adaptations[0], method.classifiers[0]]
    variables = [v for layer in layers for v in layer.trainable_variables]
    method.warming_up = True
    adapted = method.adaptations[0](outputs[0].features, training=True)
    logits = method.classifiers[0](adapted.numpy().mean(axis=(1, 2)))
    own = tiny.values(method.peers[0].variables)
    before = tiny.values(variables)
    metrics = method.take_step(batch)
    np.testing.assert_allclose(
        metrics["peer_0/loss_adaptation"],
        tiny.cross_entropy(batch["label"], logits).mean(),
        rtol=1e-4,
    )
    for old, variable in zip(before, variables, strict=True):
        assert not np.array_equal(old, variable.numpy())
    for old, variable in zip(own, method.peers[0].variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    method.warming_up = False
    everything = [v for layer in layers for v in layer.variables]
    before = tiny.values(everything)
    method.take_step(batch)
    for old, variable in zip(before, everything, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
