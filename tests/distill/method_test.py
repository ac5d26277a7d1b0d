"""The base class: `fit`, evaluation, the one reduction, and the simple methods."""

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from afd_tf.distill.methods.afd import AdversarialFeatureDistillation
from afd_tf.distill.methods.alignment import FeatureAlignment
from afd_tf.distill.methods.independent import Independent
from afd_tf.distill.recipes import Recipe
from tests import tiny

RECIPE = Recipe("sgd", learning_rate=0.05, decay=1e-3)


def evaluation(sizes=(8, 5)):
    """Batches of 8, the last one filled up with weight 0."""
    for seed, real in enumerate(sizes):
        batch = tiny.batch(seed)
        weight = (np.arange(8) < real).astype(np.float32)
        yield {**batch, "weight": tf.constant(weight)}


def test_fit_takes_the_steps_and_reports_their_means():
    def batches():
        for seed in range(3):
            yield tiny.batch(seed)

    spec = {
        "image": tf.TensorSpec([None, 8, 8, 3], tf.uint8),
        "label": tf.TensorSpec([None], tf.int32),
    }
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    fitted = tiny.compiled(AdversarialFeatureDistillation(tiny.small_peers()))
    history = fitted.fit(data, epochs=1, verbose=0).history
    stepped = tiny.compiled(AdversarialFeatureDistillation(tiny.small_peers()))
    step = tf.function(stepped.take_step, autograph=False)
    metrics = [step(batch) for batch in batches()]
    assert metrics[0].keys() <= history.keys()
    for name in metrics[0]:
        mean = np.mean([values[name] for values in metrics])
        np.testing.assert_allclose(history[name], [mean], rtol=1e-4, err_msg=name)
    for one, other in zip(fitted.variables, stepped.variables, strict=True):
        np.testing.assert_allclose(
            one.value.numpy(), other.value.numpy(), rtol=1e-5, atol=1e-6
        )


def test_evaluation_counts_each_image_once():
    method = tiny.compiled(Independent(tiny.small_peers()))
    hits, ensemble_hits, examples = np.zeros(2), 0.0, 0.0
    by_class = np.zeros((4, tiny.CLASSES))
    for batch in evaluation():
        result = method.test_step(batch)
        logits = [o.logits.numpy().astype(np.float64) for o in method(batch["image"])]
        softmax = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in logits]
        label, weight = batch["label"].numpy(), batch["weight"].numpy()
        hits += [((z.argmax(1) == label) * weight).sum() for z in logits]
        ensemble_hits += ((sum(softmax).argmax(1) == label) * weight).sum()
        examples += weight.sum()
        predicted = [*(z.argmax(1) for z in logits), sum(softmax).argmax(1), label]
        for row, classes in enumerate(predicted):
            for number in np.flatnonzero((classes == label) & (weight > 0)):
                by_class[row, label[number]] += 1
    assert examples == 13
    counts = sum(method.count_correct(batch) for batch in evaluation())
    np.testing.assert_array_equal(counts, by_class)
    np.testing.assert_allclose(result["peer_0/accuracy"], hits[0] / 13, rtol=1e-6)
    np.testing.assert_allclose(result["peer_1/accuracy"], hits[1] / 13, rtol=1e-6)
    np.testing.assert_allclose(
        result["ensemble/accuracy"], ensemble_hits / 13, rtol=1e-6
    )


def test_keras_evaluate_agrees():
    method = tiny.compiled(Independent(tiny.small_peers(1)))
    for metric in method.accuracies.values():
        metric.reset_state()
    for batch in evaluation():
        expected = method.test_step(batch)
    spec = {name: tf.TensorSpec.from_tensor(value) for name, value in batch.items()}
    data = tf.data.Dataset.from_generator(evaluation, output_signature=spec)
    result = method.evaluate(data, return_dict=True, verbose=0)
    assert float(result["peer_0/accuracy"]) == pytest.approx(
        float(expected["peer_0/accuracy"])
    )


def test_gradient_norm_and_loss_are_those_of_the_mean_over_the_batch():
    method = tiny.compiled(Independent(tiny.small_peers(1), recipe=RECIPE))
    batch = tiny.batch()
    (copy,) = tiny.small_peers(1)
    variables = [v.value for v in copy.trainable_variables]
    with tf.GradientTape() as tape:
        logits = copy(batch["image"], training=True).logits
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
        )
    flat = np.concatenate([g.numpy().ravel() for g in tape.gradient(loss, variables)])
    metrics = method.take_step(batch)
    np.testing.assert_allclose(metrics["peer_0/loss_logit"], loss, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["peer_0/gradient_norm_logit"], np.linalg.norm(flat), rtol=1e-4
    )


def test_refusals():
    for method in (AdversarialFeatureDistillation, FeatureAlignment):
        with pytest.raises(UserError, match="Did you mean 'sequential'"):
            method(tiny.small_peers(), update_order="sequentially")
    with pytest.raises(UserError, match="Did you mean 'coupled'"):
        Independent(
            tiny.small_peers(1), recipe=Recipe("sgd", 0.1, 0.0, decay_mode="couple")
        )


def test_the_recipe_is_the_papers_by_default():
    with flagsaver.as_parsed(method="afd"):
        method = methods.method_from_flags(tiny.small_peers())
    assert method.recipe == Recipe("sgd", 0.1, 1e-4, "coupled", (0.5, 0.75), 0.1, 0.9)
    assert method.adversarial_recipe == Recipe(
        "adam", 2e-5, 0.1, "coupled", (0.25, 0.5), 0.1
    )
    assert (method.temperature, method.logit_weight) == (3.0, 1.0)
    assert method.adversarial_weight == 1.0
    assert method.update_order == "simultaneous"


@pytest.mark.parametrize(
    ("names", "decay"),
    [
        ("resnet8,keras:MobileNetV3Small", 0.1),
        ("resnet8,efficientnet_lite0@imagenet", 0.0),
        ("file:mine.keras,resnet8", 0.0),
    ],
)
def test_the_adam_does_not_decay_pretrained_peers_by_default(names, decay):
    for given, expected in (({}, decay), ({"afd_weight_decay": "0.3"}, 0.3)):
        with flagsaver.as_parsed(method="afd", peers=names, **given):
            methods.set_method_defaults()
            assert flags.FLAGS.afd_weight_decay == expected
    peers = tiny.small_peers()
    peers[1].pretrained = decay == 0
    method = AdversarialFeatureDistillation(peers)
    assert method.adversarial_recipe.decay == decay
