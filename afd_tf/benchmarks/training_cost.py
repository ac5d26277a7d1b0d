"""Cost of a training step relative to a baseline: sizes, time and peak memory.

Each method, or one method with other flags, trains in a worker process of its own, see
`afd_tf.benchmarks.training_worker`. Its measurement is interleaved with that of the
baseline, so that both see the same state of the machine.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.benchmarks.worker_process import Worker, run_interleaved


def compare_training_cost(
    names: Sequence[str],
    baseline_name: str,
    command: Callable[[str], Sequence[str]],
    rounds: int,
    steps: int,
) -> dict[str, dict | None]:
    """Measures methods or settings, each interleaved with the baseline.

    Args:
      names: of the methods or settings. The baseline among them is measured against
        itself, which shows how exact the figures are.
      baseline_name: the method or setting that the others are compared with.
      command: returns the command that starts the worker of a name.
      rounds: number of rounds; in each, both workers are measured once.
      steps: training steps of each worker in a round.

    Returns:
      by name None if the worker refused its flags, else
      `training_worker.method_sizes` with "seconds" and "baseline_seconds" of every
      round, "peak_memory" in bytes, and "relative", the ratios to the baseline; that
      of "step_time" is the "median", "min" and "max" of the ratios within a round.

    Raises:
      UserError: the baseline refuses its flags, or a worker ends.
    """
    results: dict[str, dict | None] = {}
    say(f"{baseline_name}, the baseline: tracing and warming up.")
    with Worker(baseline_name, command(baseline_name)) as baseline:
        baseline_sizes = baseline.answer()
        if "refused" in baseline_sizes:
            raise UserError(baseline_sizes["refused"])
        for name in names:
            say(f"{name}: tracing and warming up.")
            with Worker(name, command(name)) as worker:
                sizes = worker.answer()
                if "refused" in sizes:
                    say(f"{name} is left out: {sizes['refused']}")
                    results[name] = None
                    continue
                own, alone = run_interleaved(
                    [worker, baseline], rounds, {"steps": steps}
                )
            results[name] = {**sizes, **_summarize(own, alone, sizes, baseline_sizes)}
            say(
                "{}: {median:.2f} times the step time of {} ({min:.2f} to "
                "{max:.2f}).".format(
                    name, baseline_name, **results[name]["relative"]["step_time"]
                )
            )
    return results


def _summarize(
    own: Sequence[Mapping],
    alone: Sequence[Mapping],
    sizes: Mapping,
    baseline_sizes: Mapping,
) -> dict:
    """Returns the figures of a worker beside those of the baseline.

    Args:
      own: the worker's answers, one a round.
      alone: those of the baseline in the same rounds.
      sizes: the worker's description.
      baseline_sizes: the description of the baseline.
    """
    seconds = [answer["seconds"] for answer in own]
    baseline_seconds = [answer["seconds"] for answer in alone]
    ratios = [a / b for a, b in zip(seconds, baseline_seconds, strict=True)]
    peak, baseline_peak = own[-1]["peak_memory"], alone[-1]["peak_memory"]
    counted = ("trained_parameters", "weights_in_memory", "multiply_adds")
    return {
        "seconds": [round(each, 4) for each in seconds],
        "baseline_seconds": [round(each, 4) for each in baseline_seconds],
        "peak_memory": peak,
        "relative": {
            **{name: round(sizes[name] / baseline_sizes[name], 3) for name in counted},
            "step_time": {
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
            },
            "peak_memory": peak and round(peak / baseline_peak, 3),
        },
    }


def cost_table(measured: Mapping[str, Mapping | None], baseline: str, kind: str) -> str:
    """Returns a Markdown table of what `compare_training_cost` returned.

    A method or setting that was left out has no row.

    Args:
      measured: the figures by name.
      baseline: the name of the baseline.
      kind: "methods" or "settings", whichever the names are of.
    """

    def size(figures, name, unit, symbol):
        relative = figures["relative"][name]
        if relative is None:
            return "unknown"
        return f"{figures[name] / unit:,.2f} {symbol} ({relative:.2f})"

    lines = [
        f"In brackets: the ratio to {baseline}. The step time is such a ratio, too.",
        "",
        f"| {'method' if kind == 'methods' else 'flag'} | students "
        "| frozen teachers | trained parameters "
        "| weights in memory | multiply-adds | step time, median (least, greatest) "
        "| peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in measured.items():
        if figures is None:
            continue
        cells = (
            f"`{name}`",
            ", ".join(figures["students"]),
            ", ".join(figures["frozen_teachers"]),
            size(figures, "trained_parameters", 1e6, "M"),
            size(figures, "weights_in_memory", 1e6, "M"),
            size(figures, "multiply_adds", 1e6, "M"),
            "{median:.2f} ({min:.2f}, {max:.2f})".format(
                **figures["relative"]["step_time"]
            ),
            size(figures, "peak_memory", 1e9, "GB"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
