"""Curves over the epochs against NumPy, and what is drawn of which runs."""

import numpy as np
import pytest

from afd_tf.analysis import curves
from afd_tf.analysis.finished_runs import find_runs
from afd_tf.analysis.tables import build_tables
from tests.analysis import logs


def metrics(values, name="test/peer_0/accuracy"):
    """Epochs from the one that the first value belongs to."""
    return [{"epoch": n, name: value} for n, value in values.items()]


def only_table(tmp_path):
    (table,) = build_tables(find_runs([tmp_path]).finished)
    return table


def test_means_and_deviations_over_the_runs_that_have_an_epoch(tmp_path):
    by_seed = [{1: 0.2, 2: 0.5}, {1: 0.4, 2: 0.6}, {2: 0.7}]
    for seed, values in enumerate(by_seed):
        logs.write(tmp_path / str(seed), seed=seed, metrics=metrics(values))
    (row,) = only_table(tmp_path).rows
    found = curves.curve(row, "test/peer_0/accuracy")
    assert found.epochs.tolist() == [1, 2]
    np.testing.assert_allclose(found.mean, [0.3, 0.6])
    expected = [np.std([0.2, 0.4], ddof=1), np.std([0.5, 0.6, 0.7], ddof=1)]
    np.testing.assert_allclose(found.deviation, expected)
    assert curves.curve(row, "test/peer_1/accuracy") is None


def test_all_kinds_of_metrics_have_a_section(tmp_path):
    logs.write(tmp_path / "a")
    logs.write(tmp_path / "b", method="independent", metrics=metrics({1: 0.1, 2: 0.3}))
    drawn = {
        section.title: [panel.title for panel in section.panels]
        for section in curves.sections(only_table(tmp_path))
    }
    both = ["resnet8", "resnet20"]
    kinds = [f"{peer}: {kind}" for kind in ("logit", "discriminator") for peer in both]
    assert drawn == {
        "Test accuracy": [*both, "ensemble"],
        "Training accuracy": both,
        "Losses in training": kinds,
        "Gradient norms": kinds,
        "Discriminators: maps that they get right (own ones dotted)": both,
    }


def test_without_metrics_nothing_is_drawn(tmp_path):
    logs.write(tmp_path / "a", metrics=[{"epoch": 2, "step": 20}])
    assert curves.sections(only_table(tmp_path)) == []


def test_many_rows_differ_in_colour_or_line():
    styles = [curves.row_style(number) for number in range(4 * len(curves.COLORS))]
    assert len(set(styles)) == len(styles)
    assert curves.row_style(len(styles))[0] in curves.COLORS


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_line_for_each_method_in_its_colour(epochs, tmp_path):
    for method in ("afd", "dml"):
        lines = metrics({n: 0.1 * n for n in range(3 - epochs, 3)})
        logs.write(tmp_path / method, method=method, metrics=lines)
    (section,) = curves.sections(only_table(tmp_path))
    (panel,) = section.panels
    assert panel.title == "resnet20"
    for color in curves.COLORS[:2]:
        assert color in panel.svg
    assert curves.COLORS[2] not in panel.svg
