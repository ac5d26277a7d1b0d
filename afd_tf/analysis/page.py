"""The page of a report: one HTML file that needs no other file and no network."""

import base64
import html
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from afd_tf.analysis import (
    calibration,
    curves,
    discriminators,
    figures,
    svg,
    table_text,
)
from afd_tf.analysis.confusion import Confusion
from afd_tf.analysis.finished_runs import FinishedRun
from afd_tf.analysis.predictions import Mistake, RunPredictions
from afd_tf.analysis.tables import Column, Row, Table
from afd_tf.base.console import one_line

_TEMPLATE = Path(__file__).with_name("page.jinja")
_DASHES = {"-": "none", "--": "8 4", "-.": "8 3 2 3", ":": "2 3"}
# Pixels of the longer side of a small image.
_THUMBNAIL = 128
# More classes than these make no readable confusion matrix.
_DRAWN_CLASSES = 250

# The predictions of a row's first run, or the reason why there are none.
RowImages = RunPredictions | str


def render(
    tables: Sequence[Table],
    unfinished: Sequence[Path] = (),
    images: Mapping[int, Mapping[str, RowImages]] | None = None,
) -> str:
    """Returns the page.

    Args:
      tables: of the runs.
      unfinished: directories of runs that were left out.
      images: what the test images say of a row's first run, by the number of the table
        and the label of the row.
    """
    template = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).from_string(_TEMPLATE.read_text("utf-8"))
    numbers = itertools.count()

    def inline(text: str) -> str:
        return svg.with_own_ids(text, f"figure{next(numbers)}-")

    return (
        template.render(
            title=_title(tables),
            summary=list(_summary(tables, unfinished)),
            views=[
                _view(table, (images or {}).get(number, {}))
                for number, table in enumerate(tables)
            ],
            svg=inline,
            with_code=_with_code,
        ).strip()
        + "\n"
    )


def _title(tables: Sequence[Table]) -> str:
    if len(tables) == 1:
        return f"Report: {tables[0].title}"
    runs = sum(len(row.runs) for table in tables for row in table.rows)
    return f"Report: {len(tables)} tables of {runs} runs"


def _with_code(text: str) -> str:
    """Returns a text as HTML in which `...` is code, as in Markdown."""
    parts = html.escape(text).split("`")
    parts[1::2] = [f"<code>{part}</code>" for part in parts[1::2]]
    return "".join(parts)


def _summary(tables: Sequence[Table], unfinished: Sequence[Path]) -> Iterator[str]:
    """Yields sentences on all that was found."""
    for table in tables:
        runs = sum(len(row.runs) for row in table.rows)
        seeds = sorted({run.seed for row in table.rows for run in row.runs})
        listed = ", ".join(map(str, seeds))
        yield (
            f"{table.title}: {runs} run{'s' * (runs != 1)}, {len(table.rows)} "
            f"method{'s' * (len(table.rows) != 1)}, seed{'s' * (len(seeds) != 1)} "
            f"{listed}."
        )
        highest = (_highest(table, column) for column in table.columns)
        yield f"Highest mean test accuracy in %: {'; '.join(highest)}."
        for baseline in table.baselines:
            if len(table.rows) > 1:
                yield _differences_in_words(table, baseline)
    for directory in unfinished:
        yield f"Left out, as it is not finished: {directory}."


def _highest(table: Table, column: Column) -> str:
    """Returns the highest mean of a column, and the rows that have it."""
    highest = max(row.mean(column) for row in table.rows)
    rows = [row for row in table.rows if row.mean(column) == highest]
    labels = " and ".join(row.label for row in rows)
    return f"{column.title} {table_text.accuracy_text(rows[0], column)} ({labels})"


def _differences_in_words(table: Table, baseline: str) -> str:
    clear, with_interval = [], 0
    for row in table.rows:
        for column in table.columns if row.label != baseline else ():
            difference = table.difference(row, column, baseline)
            with_interval += difference.low is not None
            if difference.includes_zero is False:
                text = table_text.difference_text(difference)
                clear.append(f"{row.label}, {column.title} {text}")
    if not with_interval:
        return (
            f"No interval for the differences from {baseline}: no method shares two "
            "seeds with it, so that chance cannot be told from effect."
        )
    if not clear:
        return f"Every 95 % interval of a difference from {baseline} includes 0."
    return (
        f"Differences from {baseline} whose 95 % interval excludes 0, in points "
        f"({len(clear)} of {with_interval}): {'; '.join(clear)}."
    )


def _view(table: Table, images: Mapping[str, RowImages]) -> dict[str, Any]:
    runs = [run for row in table.rows for run in row.runs]
    return {
        "title": table.title,
        "texts": table_text.text_tables(table),
        "key": [_key_entry(number, row) for number, row in enumerate(table.rows)],
        "sections": curves.sections(table),
        "health": [entry for row in table.rows for entry in _health(table, row)],
        "artifacts": [line for run in runs for line in _artifacts(run)],
        "images": [
            _images_view(table.row(label), found) for label, found in images.items()
        ],
        "environment": _environment(runs),
        "commands": [run.command() for run in runs],
    }


def _key_entry(number: int, row: Row) -> dict[str, str]:
    color, style = curves.row_style(number)
    return {"label": row.label, "color": color, "dashes": _DASHES[style]}


def _health(table: Table, row: Row) -> list[dict[str, str]]:
    """Returns the diagnosis of each peer's discriminator over the seeds of a row."""
    by_peer: dict[str, list[Mapping[str, Any]]] = {}
    for run in row.runs:
        found = discriminators.discriminator_health(run.metrics, table.peers)
        for each in found or ():
            by_peer.setdefault(each["peer"], []).append(each)
    entries = []
    for column in table.columns:
        found = by_peer.get(column.key)
        if not found:
            continue
        states = Counter(each["state"] for each in found)
        commonest = states.most_common(1)[0][0]
        example = next(each for each in found if each["state"] == commonest)
        entries.append(
            {
                "label": row.label,
                "peer": column.title,
                "accuracy": f"{np.mean([each['last_quarter'] for each in found]):.1%}",
                "state": ", ".join(
                    f"{state} ({count} of {len(found)} seeds)"
                    if len(found) > 1
                    else state
                    for state, count in states.most_common()
                ),
                "advice": example["advice"],
            }
        )
    return entries


def _artifacts(run: FinishedRun) -> list[list[str]]:
    exported = run.summary.get("exported")
    lines = []
    for name, entry in exported["formats"].items() if exported else ():
        refused = entry.get("refused")
        path = Path(exported["directory"]) / entry.get("path", "")
        lines.append(
            [
                "left out: it lost too much accuracy" if refused else str(path),
                exported["name"],
                name,
                "" if refused else f"{entry['bytes'] / 1000:,.0f} kB",
                f"{entry['accuracy']:.2%}",
                f"{entry['agreement']:.2%}",
            ]
        )
    return lines


def _environment(runs: Sequence[FinishedRun]) -> list[list[str]]:
    """Returns what the runs were made with, and how many of them if they differ."""
    lines = []
    names = dict.fromkeys(name for run in runs for name in run.environment)
    for name in names:
        values = Counter(_as_words(run.environment.get(name)) for run in runs)
        texts = (
            f"{text} ({count} of {len(runs)} runs)" if len(values) > 1 else text
            for text, count in values.items()
        )
        lines.append([name, "; ".join(texts)])
    return lines


def _as_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(
            f"{count} x {text}" if count > 1 else str(text)
            for text, count in Counter(map(str, value)).items()
        )
    return "unknown" if value is None else str(value)


def _images_view(row: Row, found: RowImages) -> dict[str, Any]:
    if isinstance(found, str):
        return {"label": row.label, "seed": None, "problem": found}
    names = [one_line(name) for name in found.info.class_names]
    confusions = [
        Confusion(found.labels, network.predicted, len(names))
        for network in found.networks
    ]
    networks = []
    for network in found.networks:
        measured = calibration.calibration(
            network.confidence, network.predicted == found.labels
        )
        title = f"{network.name}: ECE {100 * measured.expected_error:.2f} %"
        networks.append(
            {
                "name": network.name,
                "reliability": calibration.reliability_diagram(measured, title),
                "mistakes": [
                    _mistake_view(mistake, names) for mistake in network.mistakes
                ],
            }
        )
    smallest, matrix = found.networks[0].name, None
    if len(names) <= _DRAWN_CLASSES:
        figure = figures.confusion_figure(
            confusions[0].matrix, found.info.class_names, smallest
        )
        matrix = _png_source(figures.png_bytes(figure))
    panel = figures.grad_cam_figure(
        found.explained,
        titles=[names[label] for label in found.explained_labels],
        labels=found.explained_labels,
        results=found.explanations,
        class_names=found.info.class_names,
        explained="predicted class",
    )
    return {
        "label": row.label,
        "seed": found.run.seed,
        "problem": None,
        "count": f"{len(found.labels):,}",
        "bins": calibration.BINS,
        "networks": networks,
        "class_head": ["class", "images", *(each.name for each in found.networks)],
        "class_rows": _class_rows(names, confusions),
        "confusion": matrix,
        "confusion_of": smallest,
        "grad_cam": _png_source(figures.png_bytes(panel)),
    }


def _class_rows(
    names: Sequence[str], confusions: Sequence[Confusion]
) -> list[list[str]]:
    """Returns a line for each class, the worst of the last network first."""
    accuracies = [confusion.class_accuracy for confusion in confusions]
    examples = confusions[0].examples

    def rank(label: int) -> float:
        accuracy = accuracies[-1][label]
        return 2 if accuracy is None else accuracy

    return [
        [
            names[label],
            f"{examples[label]:,}",
            *(
                "" if each[label] is None else f"{each[label]:.1%}"
                for each in accuracies
            ),
        ]
        for label in sorted(range(len(names)), key=rank)
    ]


def _mistake_view(mistake: Mistake, names: Sequence[str]) -> dict[str, str]:
    pixels = mistake.image[..., 0] if mistake.image.shape[-1] == 1 else mistake.image
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {
        "source": _png_source(buffer.getvalue()),
        "label": names[mistake.label],
        "predicted": names[mistake.predicted],
        "confidence": f"{mistake.confidence:.0%}",
    }


def _png_source(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
