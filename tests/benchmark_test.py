"""The subcommands, end to end."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf import benchmark
from afd_tf.base.errors import UserError
from afd_tf.benchmarks import step

DIGITS = {"dataset": "digits", "peers": "resnet8,resnet8", "batch_size": "16"}


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (
            ["method"],
            {},
            "unknown subcommand 'method'. Did you mean 'methods'[?] Known",
        ),
        (["step", "methods"], {}, "'methods' is not a flag"),
        (["methods"], {"methods": "dml,adf"}, "unknown method 'adf'. Did you mean"),
        (["step"], {"peers": "resnet8,wrn_10_1"}, "two CIFAR ResNets only"),
        # Without a subcommand it is `step`.
        ([], {"peers": "resnet8,wrn_10_1"}, "two CIFAR ResNets only"),
        (["artifacts"], {}, "--artifact is not given: name a run"),
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


def test_a_measurement_ends_with_its_figures(monkeypatch, capsys):
    monkeypatch.setattr(step, "_INPUT_SECONDS", 0.1)
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
    alone = {"method": "independent", "peers": "resnet8"}
    settings = {**DIGITS, **alone, "settings": "accumulate=2"}
    with flagsaver.as_parsed(**settings, rounds="1", steps="1"):
        benchmark.main(["benchmark", "settings"])
    captured = capfd.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert result["baseline"] == "plain"
    row = result["settings"]["accumulate=2"]
    assert row["relative"]["trained_parameters"] == 1.0
    ratio = row["seconds"][0] / row["baseline_seconds"][0]
    assert row["relative"]["step_time"]["median"] == pytest.approx(ratio, 0.05)
    assert "| `accumulate=2` | resnet8 | " in captured.err
