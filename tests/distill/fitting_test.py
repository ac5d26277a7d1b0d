"""`fit` and `evaluate` on a data set: the loop of the command, in Keras' clothes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.distill.methods.dml import MutualLearning
from afd_tf.distill.methods.factor_transfer import FactorTransfer
from tests import tiny

BATCH = 8


class Notes(keras.callbacks.Callback):
    """Notes the metrics of each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(set(logs))


def compiled(method, dataset, epochs=2):
    return tiny.compiled(method, epochs, dataset.steps_per_epoch(BATCH))


def test_fit_takes_every_step_of_the_run():
    dataset = tiny.dataset(train=20, test=10)
    fitted, stepped = (
        compiled(MutualLearning(tiny.small_peers()), dataset) for _ in range(2)
    )
    history = fitted.fit(dataset, batch_size=BATCH, seed=3, verbose=0).history
    step = tf.function(stepped.take_step, autograph=False, reduce_retracing=True)
    losses = [
        float(step(batch)["peer_0/loss_logit"])
        for batch in dataset.train_batches(batch_size=BATCH, seed=3, epochs=2)
    ]
    assert len(losses) == 2 * 3
    np.testing.assert_allclose(
        history["peer_0/loss_logit"],
        [np.mean(losses[:3]), np.mean(losses[3:])],
        rtol=1e-4,
    )
    for one, other in zip(fitted.variables, stepped.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)


def test_evaluate_counts_a_split_of_any_size():
    dataset = tiny.dataset(train=20, test=300)
    method = compiled(MutualLearning(tiny.small_peers()), dataset)
    found = method.evaluate(dataset, verbose=0, return_dict=True)
    (batch,) = dataset.evaluation_batches("test", batch_size=300)
    *correct, counted = method.count_correct(batch).numpy().sum(axis=-1)
    assert counted == 300
    assert found.keys() == {"peer_0/accuracy", "peer_1/accuracy", "ensemble/accuracy"}
    for name, number in zip(method.evaluated_names, correct, strict=True):
        assert float(found[f"{name}/accuracy"]) == pytest.approx(number / 300)


def test_a_warm_up_comes_first_and_then_the_method():
    dataset = tiny.dataset(train=20, test=10)
    method = compiled(
        FactorTransfer(
            tiny.small_peers(1), tiny.frozen("resnet8"), paraphraser_epochs=1
        ),
        dataset,
    )
    notes = Notes()
    method.fit(dataset, batch_size=BATCH, callbacks=[notes], verbose=0)
    assert len(notes.epochs) == 3
    assert "teacher_0/loss_paraphraser" in notes.epochs[0]
    assert "peer_0/loss_logit" not in notes.epochs[0]
    for names in notes.epochs[1:]:
        assert "peer_0/loss_logit" in names
        assert "teacher_0/loss_paraphraser" not in names


def test_validation_images_are_evaluated_each_epoch():
    dataset = tiny.dataset(train=20, test=10, validation=6)
    method = compiled(MutualLearning(tiny.small_peers()), dataset)
    history = method.fit(dataset, batch_size=BATCH, verbose=0).history
    sixths = 6 * np.array(history["val_ensemble/accuracy"])
    assert len(sixths) == 2
    np.testing.assert_allclose(sixths, np.round(sixths), atol=1e-5)


def test_refusals():
    dataset = tiny.dataset(train=20, test=10)
    method = compiled(MutualLearning(tiny.small_peers()), dataset)
    with pytest.raises(UserError, match=r"fit\(\.\.\., batch_size=64\)"):
        method.fit(dataset)
    with pytest.raises(
        UserError, match=r"5 steps of an epoch, but .* steps_per_epoch=3"
    ):
        method.fit(dataset, batch_size=4)
