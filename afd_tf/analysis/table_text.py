"""The words and numbers of the tables, for Markdown and for the page."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from afd_tf.analysis.intervals import Difference, sample_deviation
from afd_tf.analysis.tables import Column, Row, Table

_MINUS = "\u2212"
_WIDTH = 88


class TextTable(NamedTuple):
    """A table as text.

    Attributes:
      caption: sentences that say what it shows.
      head: a title for each column.
      rows: a text for each column; the first is the label of a row.
      bold: whether each of these texts is emphasized.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    bold: list[list[bool]]


def text_tables(table: Table) -> list[TextTable]:
    """Returns the accuracies, then the differences from each baseline."""
    others = [name for name in table.baselines if len(table.rows) > 1]
    return [_accuracies(table), *(_differences(table, name) for name in others)]


def _accuracies(table: Table) -> TextTable:
    several = any(len(row.runs) > 1 for row in table.rows)
    spread = (
        "mean ± sample standard deviation over the seeds" if several else "one seed"
    )
    caption = f"{table.title}: test accuracy in % after the last epoch, {spread}."
    best = {column: table.best(column) for column in table.columns}
    if any(best.values()):
        caption += (
            " Bold: the best of a column, where the 95 % interval of its difference "
            f"from `{table.baselines[0]}`, paired by seed, excludes 0"
        )
        if any(row and row.label == table.baselines[0] for row in best.values()):
            caption += "; if that is the best itself, where every other row's does"
        caption += "."
    rows = [
        [
            row.label,
            *(accuracy_text(row, column) for column in table.columns),
            str(len(row.runs)),
            _range(row.summaries("epochs")),
            duration(sum(row.summaries("seconds")) / len(row.runs)),
        ]
        for row in table.rows
    ]
    bold = [
        [False, *(best[column] is row for column in table.columns), *[False] * 3]
        for row in table.rows
    ]
    titles = [column.title for column in table.columns]
    head = ["method", *titles, "seeds", "epochs", "time of a run"]
    return TextTable(caption, head, rows, bold)


def _differences(table: Table, baseline: str) -> TextTable:
    rows, has_interval = [], False
    for row in table.rows:
        if row.label == baseline:
            continue
        differences = [
            table.difference(row, column, baseline) for column in table.columns
        ]
        has_interval |= any(each.low is not None for each in differences)
        texts = [difference_text(each) for each in differences]
        # All columns of a row have the same seeds.
        rows.append([row.label, *texts, str(len(differences[0].seeds))])
    caption = f"Difference from `{baseline}` in points, "
    if has_interval:
        caption += (
            "paired by seed: mean over the seeds that both have, its 95 % interval "
            "(Student's t), and a word where that includes 0."
        )
    else:
        caption += "without an interval, which takes two seeds that both have."
    titles = [column.title for column in table.columns]
    head = ["method", *titles, "common seeds"]
    return TextTable(caption, head, rows, [[False] * len(head) for _ in rows])


def accuracy_text(row: Row, column: Column) -> str:
    """Returns the mean in %, and the sample standard deviation if there are seeds."""
    text = f"{100 * row.mean(column):.2f}"
    deviation = sample_deviation(list(row.accuracies(column).values()))
    return text if deviation is None else f"{text} ± {100 * deviation:.2f}"


def difference_text(difference: Difference) -> str:
    """Returns a difference in points with its interval, as far as there is one."""
    if difference.mean is None:
        return "no common seed"
    text = _signed(difference.mean)
    if difference.low is None:
        return text
    interval = f"{text} [{_signed(difference.low)}, {_signed(difference.high)}]"
    return f"{interval} includes 0" if difference.includes_zero else interval


def _signed(fraction: float) -> str:
    text = f"{100 * fraction:+.2f}"
    # Of a rounded 0, the sign says nothing.
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", _MINUS)


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """Returns a time with two or three digits."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def markdown(tables: Sequence[Table]) -> str:
    """Returns tables as Markdown, each with its caption above it."""
    blocks = []
    for table in tables:
        for text in text_tables(table):
            blocks += [_wrapped(text.caption), _markdown_table(text)]
    return "\n\n".join(blocks) + "\n"


def _wrapped(text: str) -> str:
    return "\n".join(
        textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    )


def _markdown_table(table: TextTable) -> str:
    lines = [_line(map(_cell, table.head)), f"|{'---|' * len(table.head)}"]
    for row, bold in zip(table.rows, table.bold, strict=True):
        label, *texts = (
            f"**{_cell(text)}**" if strong else _cell(text)
            for text, strong in zip(row, bold, strict=True)
        )
        lines.append(_line([f"`{label}`", *texts]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
