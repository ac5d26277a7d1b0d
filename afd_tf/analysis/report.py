"""The report on finished runs: tables as Markdown and JSON, and a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afd_tf.analysis import page, table_text, tables
from afd_tf.analysis.finished_runs import FinishedRun, find_runs
from afd_tf.analysis.predictions import has_checkpoint, predict_test_images
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.base.files import check_writable, write_together
from afd_tf.base.json_text import json_text

# The folder of a report within that of its runs.
FOLDER = "report"
PAGE, MARKDOWN, JSON = "report.html", "tables.md", "tables.json"


def write_report(
    run_dirs: Sequence[Path],
    output: Path,
    *,
    baselines: Sequence[str] = (),
    group_by: Sequence[str] = (),
    rows_by: Sequence[str] = (),
    images: bool = False,
) -> dict[str, Any]:
    """Writes `report.html`, `tables.md` and `tables.json`: all of them, or none.

    Args:
      run_dirs: run directories, or directories that contain some. Runs that are not
        finished are left out, with a line on stderr.
      output: the directory to write to.
      baselines: see `tables.build_tables`.
      group_by: names of flags; runs that differ in them get tables of their own.
      rows_by: names of flags that tell rows apart, as a method's own flags do.
      images: whether the page has what takes the test images, too: of each row, the
        first run, if it has a checkpoint.

    Returns:
      {"output", "files", "runs", "unfinished"}: paths as text, and the number of runs.

    Raises:
      UserError: see `find_runs` and `tables.build_tables`; or `output` cannot be
        written to.
    """
    found = find_runs(run_dirs)
    for directory in found.unfinished:
        say(f"{directory} is not finished: left out.")
    built = tables.build_tables(found.finished, baselines, group_by, rows_by)
    check_writable(output)
    seen = {}
    if images:
        seen = {number: _row_images(table) for number, table in enumerate(built)}
    contents = {
        PAGE: page.render(built, found.unfinished, seen),
        MARKDOWN: table_text.markdown(built),
        JSON: json_text(
            {
                "tables": [tables.as_json(table) for table in built],
                "unfinished": [str(directory) for directory in found.unfinished],
            },
            indent=1,
        )
        + "\n",
    }
    # The name of a file may hold bytes that are not UTF-8.
    write_together(
        {
            output / name: text.encode("utf-8", "backslashreplace")
            for name, text in contents.items()
        }
    )
    return {
        "output": str(output),
        "files": [str(output / name) for name in contents],
        "runs": len(found.finished),
        "unfinished": [str(directory) for directory in found.unfinished],
    }


def _row_images(table: tables.Table) -> dict[str, page.RowImages]:
    """Returns what the test images say of the first run of each row that has networks.

    One that cannot be opened has the reason in its place.
    """
    seen: dict[str, page.RowImages] = {}
    for row in table.rows:
        run = next(filter(has_checkpoint, row.runs), None)
        if run is not None:
            seen[row.label] = _predictions(run)
    return seen


def _predictions(run: FinishedRun) -> page.RowImages:
    try:
        return predict_test_images(run)
    except UserError as error:
        say(f"without the test images of {run.directory}: {error}")
        return f"{run.directory}: {error}"
