"""The exchange between two workers: counts and bytes beside a formula."""

import json
import math

from absl.testing import flagsaver

from afd_tf import benchmark, data
from afd_tf.models import build_peer

DIGITS = {"dataset": "digits", "peers": "resnet8,resnet8", "batch_size": "16"}


def test_the_exchange_is_that_of_the_formula(capfd):
    with flagsaver.as_parsed(**DIGITS, methods="afd", rounds="1", steps="2"):
        benchmark.main(["benchmark", "communication"])
    captured = capfd.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    peer = build_peer("resnet8", data.load("digits").info)
    weights = sum(math.prod(each.shape) for each in peer.trainable_variables)
    body = sum(math.prod(each.shape) for each in peer.feature_variables)
    channels = [
        each.shape[0] for each in peer.trainable_variables if each.name == "gamma"
    ]
    statistics = sum(2 * each + 1 for each in channels)
    discriminator = 9 * 64 * 64 + 2 * 64 + 64 + 1
    # Forward and, for each loss that goes back through them, backward: L_logit and L_G
    # through the peer; L_D twice, real and fake, and L_G through the discriminator.
    normalization = 2 * (3 * statistics + (2 + 3) * (2 * 64 + 1))
    gradients, metrics = 2 * (weights + body + discriminator), 24
    row = result["methods"]["afd"]
    assert row["gradient_bytes"] == 4 * gradients
    assert row["metric_bytes"] == 4 * (metrics + 1)
    assert row["bytes"] == 4 * (gradients + normalization + metrics + 1)
    assert row["expected_wire_bytes"] == 2 * row["bytes"]
    # Other processes may use the loopback interface as well.
    assert row["wire_bytes"] > row["expected_wire_bytes"]
    # The all-reduce of each batch normalization waits for the one before it.
    assert row["all_reduces"] > 2 * len(channels)
    assert "| `afd` | 67 | " in captured.err
