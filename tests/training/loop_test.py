"""Evaluation over a split, beside a computation in NumPy and scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from afd_tf.distill.methods.independent import Independent
from afd_tf.training import loop
from tests import tiny

# More than two batches of an evaluation, the last of which has to be filled up.
IMAGES = 300


def test_evaluation_by_class():
    dataset = tiny.dataset(train=8, test=IMAGES)
    method = tiny.compiled(Independent(tiny.peers("resnet8", "resnet14")))
    found = loop.evaluation_function(method, tf.distribute.get_strategy(), dataset)(
        "test"
    )
    (batch,) = dataset.evaluation_batches("test", batch_size=IMAGES)
    logits = [output.logits.numpy() for output in method(batch["image"])]
    predicted = {
        "peer_0": logits[0].argmax(axis=-1),
        "peer_1": logits[1].argmax(axis=-1),
        "ensemble": np.mean([tiny.softmax(z) for z in logits], 0).argmax(axis=-1),
    }
    labels = batch["label"].numpy()
    expected = {}
    for name, classes in predicted.items():
        expected[f"{name}/accuracy"] = accuracy_score(labels, classes)
        expected[f"{name}/balanced_accuracy"] = balanced_accuracy_score(labels, classes)
    for measure in ("accuracy", "balanced_accuracy"):
        of_peers = [expected[f"peer_{number}/{measure}"] for number in (0, 1)]
        expected[f"mean/{measure}"] = np.mean(of_peers)
    assert found == pytest.approx(expected)
    assert found["peer_0/accuracy"] != found["peer_0/balanced_accuracy"]
