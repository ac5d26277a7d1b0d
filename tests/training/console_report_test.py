"""The end of a run in words."""

import pytest

from afd_tf.training.console_report import report_end

SUMMARY = {
    "epochs": 3,
    "peers": [
        {"name": "resnet8", "accuracy": 0.9, "balanced_accuracy": 0.905},
        {"name": "resnet20", "accuracy": 0.95, "balanced_accuracy": 0.95},
    ],
    "ensemble_accuracy": 0.96,
    "ensemble_balanced_accuracy": 0.955,
}


@pytest.mark.parametrize(
    ("balanced", "lines"),
    [
        (
            0.905,
            [
                "test accuracy after 3 epochs:",
                "  resnet8   90.00%",
                "  resnet20  95.00%",
                "  ensemble  96.00%",
            ],
        ),
        (
            0.75,
            [
                "test accuracy after 3 epochs (balanced: each class counts the same):",
                "  resnet8   90.00%, balanced 75.00%",
                "  resnet20  95.00%, balanced 95.00%",
                "  ensemble  96.00%, balanced 95.50%",
            ],
        ),
    ],
)
def test_the_balanced_accuracy_is_said_where_it_differs(
    balanced, lines, tmp_path, capsys
):
    first = {**SUMMARY["peers"][0], "balanced_accuracy": balanced}
    report_end({**SUMMARY, "peers": [first, SUMMARY["peers"][1]]}, tmp_path)
    assert capsys.readouterr().err.splitlines()[:4] == lines


def test_a_single_network_has_no_ensemble(tmp_path, capsys):
    report_end({**SUMMARY, "peers": SUMMARY["peers"][:1]}, tmp_path)
    said = capsys.readouterr().err
    assert "resnet8   90.00%" in said
    assert "ensemble" not in said
