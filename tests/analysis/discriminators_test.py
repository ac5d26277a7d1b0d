"""Diagnoses of discriminators with given accuracies."""

import json

import pytest

from afd_tf.analysis import discriminators


def epochs(accuracies, peer=0):
    key = f"train/peer_{peer}/discriminator_accuracy"
    return [
        {
            "epoch": number + 1,
            "train/teacher_0/discriminator_accuracy": 1.0,
            key: value,
            f"{key}_real": value - 0.01,
            f"{key}_fake": value + 0.01,
        }
        for number, value in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    ("accuracies", "state", "last_quarter", "words"),
    [
        ([0.6, 0.9, 0.95, 0.95, 0.95, 0.95, 0.985, 0.995], "collapsed", 0.99, "99.0%"),
        ([0.6, 0.9, 0.95, 0.95, 0.95, 0.95, 0.98, 0.99], "in balance", 0.985, "98.5%"),
        ([1, 1, 1, 1, 1, 1, 0.5, 0.6], "in balance", 0.55, "100.0%"),
        ([0.5, 0.55, 0.45, 0.5, 0.51], "learned nothing", 0.505, "55.0%"),
        ([0.5, 0.56, 0.45, 0.5, 0.5], "in balance", 0.5, "56.0%"),
        ([1.0], "collapsed", 1.0, "100.0%"),
    ],
)
def test_health_of_a_discriminator(accuracies, state, last_quarter, words):
    (health,) = discriminators.discriminator_health(epochs(accuracies), ["resnet8"])
    advice = health.pop("advice")
    assert words in advice and "\n" not in advice
    assert ("--afd_learning_rate" in advice) == (state != "in balance")
    assert health == {
        "peer": "peer_0",
        "name": "resnet8",
        "epochs": list(range(1, len(accuracies) + 1)),
        "accuracy": accuracies,
        "real": [value - 0.01 for value in accuracies],
        "fake": [value + 0.01 for value in accuracies],
        "last_quarter": pytest.approx(last_quarter),
        "highest": max(accuracies),
        "state": state,
    }
    json.dumps(health)


def test_some_peers_have_no_discriminator():
    metrics = epochs([0.7, 0.8], peer=1)
    assert discriminators.discriminator_health(metrics, ["a"]) is None
    assert discriminators.discriminator_health([], ["a", "b"]) is None
    (health,) = discriminators.discriminator_health(metrics, ["a", "b", "c"])
    assert (health["peer"], health["name"]) == ("peer_1", "b")
