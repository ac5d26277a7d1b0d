"""The subcommands, end to end."""

import json
import math

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf import benchmark, data
from afd_tf.errors import UserError
from afd_tf.models import build_peer

DIGITS = {"dataset": "digits", "peers": "resnet8,resnet8", "batch_size": "16"}


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (
            ["method"],
            {},
            "unknown subcommand 'method'. Did you mean 'methods'[?] Known",
        ),
        (["step", "methods"], {}, "'methods' is no flag"),
        (["methods"], {"methods": "dml,adf"}, "unknown method 'adf'. Did you mean"),
        (["step"], {"peers": "resnet8,wrn_10_1"}, "two CIFAR ResNets only"),
        (["artifacts"], {}, "give what to run, e.g. --artifact="),
        (["artifacts"], {"artifact": "none"}, "there is no artifact none"),
        (["methods"], {"peers": "resnt8"}, "unknown peer 'resnt8'. Did you mean"),
    ],
)
def test_a_mistake_is_one_line(arguments, given, message):
    with (
        flagsaver.as_parsed(**{**DIGITS, **given}),
        pytest.raises(UserError, match=message) as raised,
    ):
        benchmark.main(["benchmark", *arguments])
    assert "\n" not in str(raised.value)


def test_other_networks_than_the_bare_loops_are_refused():
    with (
        flagsaver.as_parsed(dataset="digits", peers="resnet8,wrn_10_1"),
        pytest.raises(UserError, match="two CIFAR ResNets only"),
    ):
        benchmark.main(["benchmark"])


def test_a_measurement_ends_with_its_figures(capsys):
    with flagsaver.as_parsed(**DIGITS, rounds="2", steps="1"):
        benchmark.main(["benchmark"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    ours, bare = (result["images_per_second"][name] for name in ("afd_tf", "bare"))
    ratios = np.divide(ours, bare)
    assert result["ratio_to_bare"]["median"] == pytest.approx(np.median(ratios), 0.02)
    assert result["input_to_step"] == pytest.approx(
        result["input_images_per_second"] / np.median(ours), 0.02
    )


def test_methods_are_measured_in_processes_of_their_own(capfd):
    settings = {**DIGITS, "peers": "resnet8,resnet14", "methods": "kd,one"}
    with flagsaver.as_parsed(**settings, rounds="2", steps="1"):
        benchmark.main(["benchmark", "methods"])
    captured = capfd.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert result["flags"] == {**settings, "rounds": "2", "steps": "1"}
    assert result["environment"]["tensorflow"]
    kd = result["methods"]["kd"]
    assert kd["students"] == ["resnet8"]
    assert kd["frozen_teachers"] == ["resnet14"]
    assert len(kd["seconds"]) == len(kd["baseline_seconds"]) == 2
    ratios = np.divide(kd["seconds"], kd["baseline_seconds"])
    assert kd["relative"]["step_time"]["median"] == pytest.approx(
        np.median(ratios), 0.05
    )
    assert kd["relative"]["multiply_adds"] == 1.0
    # Python and TensorFlow alone take a quarter of a gigabyte or more.
    assert 0.2e9 < kd["peak_memory"] < 4e9
    # Branches of one network are of one kind.
    assert result["methods"]["one"] is None
    assert "one is left out: --own_stages=1" in captured.err
    assert "| `kd` | resnet8 | resnet14 | " in captured.err
    assert "`one`" not in captured.err


def test_settings_are_measured_beside_the_same_command_without_them(capfd):
    settings = {**DIGITS, "method": "dml", "settings": "accumulate=2"}
    with flagsaver.as_parsed(**settings, rounds="1", steps="1"):
        benchmark.main(["benchmark", "settings"])
    captured = capfd.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert result["baseline"] == "plain"
    row = result["settings"]["accumulate=2"]
    assert row["relative"]["trained_parameters"] == 1.0
    ratio = row["seconds"][0] / row["baseline_seconds"][0]
    assert row["relative"]["step_time"]["median"] == pytest.approx(ratio, 0.05)
    assert "| `accumulate=2` | resnet8, resnet8 | " in captured.err


def test_what_workers_tell_each_other_is_what_the_formula_says(capfd):
    with flagsaver.as_parsed(**DIGITS, methods="afd,kd", rounds="1", steps="2"):
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
    afd = 2 * (3 * statistics + (2 + 3) * (2 * 64 + 1))
    for name, gradients, normalization, metrics in (
        ("afd", 2 * (weights + body + discriminator), afd, 24),
        ("kd", weights, 2 * statistics, 6),
    ):
        row = result["methods"][name]
        assert row["gradient_bytes"] == 4 * gradients
        assert row["metric_bytes"] == 4 * (metrics + 1)
        assert row["bytes"] == 4 * (gradients + normalization + metrics + 1)
        assert row["expected_wire_bytes"] == 2 * row["bytes"]
        # Other processes may use the loopback interface as well.
        assert row["wire_bytes"] > row["expected_wire_bytes"]
    # A batch normalization's sum waits for the one before it.
    assert result["methods"]["kd"]["all_reduces"] > 2 * len(channels)
    assert "| `afd` | 67 | " in captured.err


def test_the_table_of_methods():
    measured = {
        "afd": {
            "students": ["a", "b"],
            "frozen_teachers": [],
            "trained_parameters": 1_250_000,
            "weights_in_memory": 1_500_000,
            "multiply_adds": 4_000_000,
            "peak_memory": 2_000_000_000,
            "relative": {
                "trained_parameters": 1.25,
                "weights_in_memory": 1.5,
                "multiply_adds": 1.0,
                "step_time": {"median": 1.104, "min": 1.06, "max": 1.2},
                "peak_memory": 1.333,
            },
        },
        "one": None,
    }
    *_, rule, row = benchmark.cost_table(measured, "independent").splitlines()
    assert row == (
        "| `afd` | a, b |  | 1.25 M (1.25) | 1.50 M (1.50) | 4.00 M (1.00) "
        "| 1.10 (1.06, 1.20) | 2.00 GB (1.33) |"
    )
    assert rule.count("|") == row.count("|")
    measured["afd"]["relative"]["peak_memory"] = None
    assert benchmark.cost_table(measured, "independent").endswith(
        "(1.06, 1.20) | unknown |"
    )
