"""Tables of finished runs: a row for each method, means over seeds, paired differences.

A table holds the runs of the same peers that agree in all but the method, the method's
own flags and the seed.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from afd_tf.analysis.finished_runs import FinishedRun, as_given, separating_flags
from afd_tf.analysis.intervals import (
    LEVEL,
    Difference,
    paired_difference,
    sample_deviation,
)
from afd_tf.base.console import one_line
from afd_tf.base.errors import UserError, unknown_name

DEFAULT_BASELINE = "independent"
# Runs that a message names for each value of a flag.
_NAMED = 2


class Column(NamedTuple):
    """A column of accuracies.

    Attributes:
      key: "peer_<k>", "mean" or "ensemble", as in `metrics.jsonl`.
      title: its head.
    """

    key: str
    title: str


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of one method.

    Attributes:
      label: the method with its flags.
      runs: of different seeds, in their order.
    """

    label: str
    runs: Sequence[FinishedRun]

    def accuracies(self, column: Column) -> dict[int, float]:
        """Returns the test accuracy after the last epoch, 0..1, by seed."""
        return {run.seed: _accuracy(run, column.key) for run in self.runs}

    def mean(self, column: Column) -> float:
        """Returns the mean of the accuracies over the seeds, 0..1."""
        return statistics.fmean(self.accuracies(column).values())

    def summaries(self, name: str) -> list[float]:
        """Returns an entry of `summary.json` of each run."""
        return [run.summary[name] for run in self.runs]


@dataclasses.dataclass(frozen=True)
class Table:
    """Runs that belong together.

    Attributes:
      dataset: its name.
      peers: the names of the peers, in their order.
      group: the flags of --group_by, as text by name.
      columns: the peers from small to large, then their mean and ensemble if there are
        two or more.
      rows: the baselines first, then in the order in which the runs were named.
      baselines: labels of rows with which the others are compared.
    """

    dataset: str
    peers: Sequence[str]
    group: Mapping[str, str]
    columns: Sequence[Column]
    rows: Sequence[Row]
    baselines: Sequence[str]

    @property
    def title(self) -> str:
        """Data set, peers and the flags of --group_by."""
        given = [
            as_given(name, text)
            for name, text in self.group.items()
            if text and name != "dataset"
        ]
        return ", ".join([self.dataset, *map(one_line, self.peers), *given])

    def row(self, label: str) -> Row:
        """Returns the row with a label."""
        return next(row for row in self.rows if row.label == label)

    def difference(self, row: Row, column: Column, baseline: str) -> Difference:
        """Returns the difference of a row from a baseline, paired by seed."""
        return paired_difference(
            row.accuracies(column), self.row(baseline).accuracies(column)
        )

    def best(self, column: Column) -> Row | None:
        """Returns the row that is bold in a column, if there is one.

        It is the one with the highest mean, if nothing speaks for chance: the 95 %
        interval of its paired difference from the first baseline excludes 0. If that
        baseline has the highest mean itself, the interval of every other row's
        difference from it has to exclude 0. Without a baseline, with two rows of the
        highest mean, or with too few common seeds for an interval no row is bold.
        The intervals are not corrected for the number of rows.
        """
        means = [row.mean(column) for row in self.rows]
        highest = self.rows[means.index(max(means))]
        if not self.baselines or means.count(max(means)) > 1 or len(means) == 1:
            return None
        baseline = self.baselines[0]
        compared = [highest]
        if highest.label == baseline:
            compared = [row for row in self.rows if row.label != baseline]
        differences = [self.difference(row, column, baseline) for row in compared]
        clear = all(each.includes_zero is False for each in differences)
        return highest if clear else None


def build_tables(
    runs: Sequence[FinishedRun],
    baselines: Sequence[str] = (),
    group_by: Sequence[str] = (),
    rows_by: Sequence[str] = (),
) -> list[Table]:
    """Sorts runs into tables, in the order in which they were named.

    Args:
      runs: at least one.
      baselines: labels of rows, or names of methods that only one row has. Without one,
        `independent` is the baseline where there is such a row.
      group_by: names of flags; runs that differ in them get tables of their own.
      rows_by: names of flags that tell rows apart, as a method's own flags do.

    Raises:
      UserError: runs do not belong together, two have one method and seed, or there is
        no such baseline or flag.
    """
    _check_names(runs, group_by, "--group_by")
    _check_names(runs, rows_by, "--rows_by")
    groups: dict[tuple[str, ...], list[FinishedRun]] = {}
    for run in runs:
        key = (run.peers, *(run.value(name) for name in group_by))
        groups.setdefault(key, []).append(run)
    tables = []
    for (_, *values), members in groups.items():
        _check_agreement(members, group_by, rows_by)
        rows = _rows(members, group_by, rows_by)
        chosen = _baselines_in(rows, baselines)
        rows.sort(key=lambda row: row.label not in chosen)
        peers = [peer["name"] for peer in members[0].summary["peers"]]
        table = Table(
            members[0].summary["dataset"],
            peers,
            dict(zip(group_by, values, strict=True)),
            _columns(members[0].summary["peers"]),
            rows,
            chosen,
        )
        tables.append(table)
    for name in baselines:
        if not any(_labels_of(table.rows, name) for table in tables):
            labels = dict.fromkeys(row.label for each in tables for row in each.rows)
            raise unknown_name("baseline", name, labels)
    return tables


def _check_names(runs: Sequence[FinishedRun], names: Sequence[str], flag: str) -> None:
    """Refuses flags that no run has, and those whose runs make a table or a row."""
    known = sorted({name for run in runs for name in run.flags} - {"seed", "peers"})
    for name in names:
        if name not in known:
            raise unknown_name(f"flag of {flag}", name, known)


def _check_agreement(
    runs: Sequence[FinishedRun], group_by: Sequence[str], rows_by: Sequence[str]
) -> None:
    """Refuses runs that differ in more than the method, its flags and the seed.

    Raises:
      UserError: it names every difference.
    """
    problems, names = [], []
    for name in sorted(separating_flags(runs) - {*group_by, *rows_by}):
        by_value: dict[str, list[str]] = {}
        for run in runs:
            by_value.setdefault(run.value(name), []).append(str(run.directory))
        if len(by_value) > 1:
            names.append(name)
            values = (
                f"{one_line(value) if value else 'not given'} in {_some(directories)}"
                for value, directories in by_value.items()
            )
            problems.append(f"--{name} is {', '.join(values)}")
    if problems:
        raise UserError(
            f"these runs do not belong in one table: {'; '.join(problems)}. Give runs "
            "that differ in the method, its own flags and the seed only, or "
            f"--group_by={','.join([*group_by, *names])} for a table of each, or "
            f"--rows_by={','.join([*rows_by, *names])} for a row of each."
        )


def _some(directories: Sequence[str]) -> str:
    rest = len(directories) - _NAMED
    shown = " and ".join(directories[:_NAMED])
    return f"{shown} and {rest} more" if rest > 0 else shown


def _rows(
    runs: Sequence[FinishedRun], group_by: Sequence[str], rows_by: Sequence[str]
) -> list[Row]:
    """Sorts runs by their label and seed.

    Raises:
      UserError: two have the same.
    """
    by_label: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        label = run.label(without=group_by, also=rows_by)
        known = by_label.setdefault(label, {}).setdefault(run.seed, run)
        if known is not run:
            raise UserError(
                f"{known.directory} and {run.directory} are both {label} with "
                f"--seed={run.seed}: a seed counts once, leave one of them out."
            )
    return [
        Row(label, [by_seed[seed] for seed in sorted(by_seed)])
        for label, by_seed in by_label.items()
    ]


def _labels_of(rows: Sequence[Row], name: str) -> list[str]:
    """Returns the labels that a name of a baseline may mean: one label, or several."""
    labels = [row.label for row in rows]
    if name in labels:
        return [name]
    return [row.label for row in rows if row.runs[0].method == name]


def _baselines_in(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Returns the labels of the baselines that a table has.

    Raises:
      UserError: a name is that of a method with several rows.
    """
    found = []
    for name in names or [DEFAULT_BASELINE]:
        labels = _labels_of(rows, name)
        if len(labels) > 1 and names:
            raise UserError(
                f"--baseline={name} may be {', '.join(map(repr, labels))}: give one of "
                "these, in quotes."
            )
        found += labels[:1] if names else [each for each in labels if each == name]
    return list(dict.fromkeys(found))


def _columns(peers: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Returns the columns: the peers by their number of parameters, mean, ensemble."""
    names = [peer["name"] for peer in peers]
    numbers = sorted(range(len(peers)), key=lambda k: (peers[k]["parameters"], k))
    columns = []
    for number in numbers:
        name = names[number]
        twins = names.count(name) > 1
        title = f"{name} (peer {number})" if twins else name
        columns.append(Column(f"peer_{number}", one_line(title)))
    if len(peers) > 1:
        columns += [Column("mean", "mean"), Column("ensemble", "ensemble")]
    return columns


def _accuracy(run: FinishedRun, key: str) -> float:
    if key.startswith("peer_"):
        return run.summary["peers"][int(key.removeprefix("peer_"))]["accuracy"]
    return run.summary[f"{key}_accuracy"]


def as_json(table: Table) -> dict[str, Any]:
    """Returns a table as JSON values; accuracies and differences are fractions."""
    return {
        "dataset": table.dataset,
        "peers": list(table.peers),
        "group": dict(table.group),
        "measure": "test accuracy after the last epoch, 0..1",
        "interval": f"Student's t over seeds, paired by seed, level {LEVEL}",
        "rows": [
            {
                "method": row.label,
                "seeds": [run.seed for run in row.runs],
                "epochs": row.summaries("epochs"),
                "seconds": row.summaries("seconds"),
                "directories": [str(run.directory) for run in row.runs],
                "accuracy": {
                    column.key: {
                        "title": column.title,
                        "values": list(row.accuracies(column).values()),
                        "mean": row.mean(column),
                        "standard_deviation": sample_deviation(
                            list(row.accuracies(column).values())
                        ),
                        "bold": table.best(column) is row,
                    }
                    for column in table.columns
                },
                "differences": {
                    baseline: {
                        column.key: _difference_json(
                            table.difference(row, column, baseline)
                        )
                        for column in table.columns
                    }
                    for baseline in table.baselines
                    if baseline != row.label
                },
            }
            for row in table.rows
        ],
        "baselines": list(table.baselines),
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {**difference._asdict(), "includes_zero": difference.includes_zero}
