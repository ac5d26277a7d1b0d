"""Curves of `metrics.jsonl` over the epochs: means over seeds, with their spread."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from afd_tf.analysis import svg
from afd_tf.analysis.tables import Column, Row, Table

# Seen well on white and on black. One for each method; then they begin anew, dashed.
COLORS = (
    "#3b82c4",
    "#d9772b",
    "#3a9d6a",
    "#b3589a",
    "#8377d1",
    "#b8921f",
    "#3f9fa3",
    "#d15b5b",
)
_LINE_STYLES = ("-", "--", "-.", ":")


class Curve(NamedTuple):
    """A metric of one method over the epochs.

    Attributes:
      epochs: int [n], those that at least one run has.
      mean: float [n], over the runs that have the epoch.
      deviation: float [n], their sample standard deviation; 0 for one run.
    """

    epochs: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


class Panel(NamedTuple):
    """A figure of one metric.

    Attributes:
      title: the network and the metric.
      svg: an <svg> element.
    """

    title: str
    svg: str


class Section(NamedTuple):
    """Panels of one kind.

    Attributes:
      title: of the section.
      panels: at least one.
    """

    title: str
    panels: list[Panel]


def curve(row: Row, metric: str) -> Curve | None:
    """Returns the mean and spread of a metric over the runs of a row.

    None where no epoch of any run has it.
    """
    values: dict[int, list[float]] = {}
    for run in row.runs:
        for line in run.metrics:
            if metric in line:
                values.setdefault(int(line["epoch"]), []).append(line[metric])
    if not values:
        return None
    epochs = sorted(values)
    deviations = [
        np.std(values[epoch], ddof=1) if len(values[epoch]) > 1 else 0.0
        for epoch in epochs
    ]
    means = [np.mean(values[epoch]) for epoch in epochs]
    return Curve(np.array(epochs), np.array(means), np.array(deviations))


def sections(table: Table) -> list[Section]:
    """Draws all that the epochs of a table's runs have, by kind."""
    runs = [run for row in table.rows for run in row.runs]
    names = {name for run in runs for line in run.metrics for name in line}
    peers = [each for each in table.columns if each.key.startswith("peer_")]
    tested = [each for each in table.columns if each.key != "mean"]
    kinds = {
        "Test accuracy": [
            _panel(table, column.title, [f"test/{column.key}/accuracy"], "%")
            for column in tested
        ],
        "Training accuracy": [
            _panel(table, column.title, [f"train/{column.key}/accuracy"], "%")
            for column in peers
        ],
        "Losses in training": _family(table, peers, names, "loss_"),
        "Gradient norms": _family(table, peers, names, "gradient_norm_"),
        "Discriminators: maps that they get right (own ones dotted)": [
            _panel(
                table,
                column.title,
                [
                    f"train/{column.key}/discriminator_accuracy_real",
                    f"train/{column.key}/discriminator_accuracy_fake",
                ],
                "%",
            )
            for column in peers
        ],
    }
    found = (
        Section(title, [panel for panel in panels if panel])
        for title, panels in kinds.items()
    )
    return [section for section in found if section.panels]


def _family(
    table: Table, peers: Sequence[Column], names: set[str], prefix: str
) -> list[Panel | None]:
    """Draws the metrics train/<peer>/<prefix>..., of each kind all peers in turn."""
    pattern = re.compile(rf"train/peer_\d+/{prefix}(.+)")
    kinds = sorted({found[1] for found in map(pattern.fullmatch, names) if found})
    # The whole loss of a peer first.
    kinds.sort(key=lambda kind: kind != "logit")
    return [
        _panel(
            table,
            f"{column.title}: {kind.replace('_', ' ')}",
            [f"train/{column.key}/{prefix}{kind}"],
        )
        for kind in kinds
        for column in peers
    ]


def _panel(
    table: Table, title: str, metrics: Sequence[str], unit: str = ""
) -> Panel | None:
    """Draws metrics, the second one dotted; None where no run has any."""
    scale = 100 if unit == "%" else 1
    with svg.drawing(title) as drawing:
        axes = drawing.axes
        for number, row in enumerate(table.rows):
            color, style = row_style(number)
            for metric, line_style in zip(metrics, (style, ":"), strict=False):
                found = curve(row, metric)
                if found is not None:
                    _draw(axes, found, scale, color, line_style)
        if not axes.lines:
            return None
        axes.set(xlabel="epoch", ylabel=unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return Panel(title, drawing.text)


def _draw(axes: Axes, drawn: Curve, scale: float, color: str, style: str) -> None:
    epochs, mean, deviation = drawn.epochs, scale * drawn.mean, scale * drawn.deviation
    axes.plot(
        epochs,
        mean,
        style,
        color=color,
        linewidth=1.4,
        # A single epoch makes no line.
        marker="o" if len(epochs) == 1 else None,
        markersize=3,
    )
    if np.any(deviation > 0):
        axes.fill_between(
            epochs, mean - deviation, mean + deviation, color=color, alpha=0.2, lw=0
        )


def row_style(number: int) -> tuple[str, str]:
    """Returns the colour and the line style of a table's row."""
    rounds, place = divmod(number, len(COLORS))
    return COLORS[place], _LINE_STYLES[rounds % len(_LINE_STYLES)]
