"""Cost of inference with each format of an artifact: size, loading, latency, memory.

The processes of `afd_tf.benchmarks.inference_runtimes` are started one after the other,
each once before unmeasured. Then they are measured interleaved, one call at a time, of
one image or of a batch: while one works, the others wait. Loading is measured once,
from files that the system has in memory.
"""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.benchmarks import inference_runtimes
from afd_tf.benchmarks.inference_runtimes import OPTIONAL, Artifact, Process
from afd_tf.benchmarks.worker_process import run_interleaved
from afd_tf.training.run_directory import environment

# The format and the runtime that others are compared with, if they are measured.
REFERENCE = ("tflite", "litert")

# Images of a process in a round, and the fewest calls with batches of them.
_IMAGES = 100
_CALLS = 10

# Format, runtime, number of threads.
Key = tuple[str, str, int]


def measure_artifacts(rounds: int, steps: int | None) -> dict:
    """Measures every format that --artifact holds.

    Args:
      rounds: see `compare_inference_cost`.
      steps: see `compare_inference_cost`; None is about 100 images, 10 calls at least.

    Returns:
      `compare_inference_cost` with "rounds", "steps", "image_shape", "peak_memory_of",
      a description of that memory, and "environment".

    Raises:
      UserError: --artifact names no artifact, or see `compare_inference_cost`.
    """
    artifacts = inference_runtimes.artifacts_from_flags()
    steps = steps or max(_CALLS, _IMAGES // artifacts[0].task["batch_size"])
    return {
        "rounds": rounds,
        "steps": steps,
        "image_shape": artifacts[0].task["image_shape"],
        "peak_memory_of": "resident set of the process, with its runtime (VmHWM)",
        **compare_inference_cost(artifacts, rounds, steps),
        # That of the processes that were measured, not of this one.
        "environment": {
            **environment(),
            "onednn": inference_runtimes.ENVIRONMENT["TF_ENABLE_ONEDNN_OPTS"],
            "devices": ["/physical_device:CPU:0"],
        },
    }


def compare_inference_cost(
    artifacts: Sequence[Artifact], rounds: int, steps: int
) -> dict:
    """Measures artifacts with all runtimes that are installed.

    Args:
      artifacts: at least one, all of the same network.
      rounds: number of rounds; in each, every process is measured once.
      steps: calls of each process in a round.

    Returns:
      "batch_size", the images of a call; "reference": the format and the runtime that
      others are compared with; "left_out": by format, why it cannot take such a batch;
      "measured": by format and runtime None for one that is left out, else {"bytes",
      "relative_bytes", "version", "threads": by their number, as text, {
      "import_seconds" of the runtime, "load_seconds" from there to the first answer,
      "latency_ms" of a call: {"p50", "p90", "p50_of_rounds"}, "images_per_second" at
      its median, "peak_memory" in bytes, "agreement", the fraction of images with the
      same top class as in the first process, "relative", ratios to the reference}}.

    Raises:
      UserError: a runtime that is not optional fails, a process ends, or every format
        was made for another batch.
    """
    batch_size = artifacts[0].task["batch_size"]
    left_out = {each.format: each.other_batch for each in artifacts if each.other_batch}
    if len(left_out) == len(artifacts):
        raise UserError(
            f"nothing in --artifact takes {batch_size} images at a time: "
            f"{'; '.join(f'{name}: {reason}' for name, reason in left_out.items())}."
        )
    for name, reason in left_out.items():
        say(f"{name} is left out: {reason}.")
    with contextlib.ExitStack() as stack:
        processes, measured = _start_processes(artifacts, stack)
        say(f"measuring {len(processes)} processes, interleaved.")
        answers = run_interleaved(
            [process.worker for process in processes.values()],
            rounds,
            {"steps": steps},
        )
    results = {
        key: {**process.description, **_pool(own)}
        for (key, process), own in zip(processes.items(), answers, strict=True)
    }
    first = next(iter(results))
    reference = REFERENCE if (*REFERENCE, 1) in results else first[:2]
    for (name, runtime, threads), own in results.items():
        row = measured[name][runtime]
        row["relative_bytes"] = _ratio(
            row["bytes"], measured[reference[0]][reference[1]]["bytes"]
        )
        row["threads"][str(threads)] = _summarize(
            own, results[(*reference, threads)], results[first]["classes"], batch_size
        )
    return {
        "batch_size": batch_size,
        "reference": list(reference),
        "left_out": left_out,
        "measured": measured,
    }


def _start_processes(
    artifacts: Sequence[Artifact], stack: contextlib.ExitStack
) -> tuple[dict[Key, Process], dict[str, dict]]:
    """Returns the processes, and the rows that are not yet filled with their figures.

    Args:
      artifacts: to load.
      stack: whose end also ends the processes.

    Returns:
      the processes of every runtime that is installed and reads its artifact; and by
      format and runtime None, or {"bytes", "version", "threads": {}}.

    Raises:
      UserError: a runtime that is not optional fails.
    """
    absent = inference_runtimes.absent_runtimes()
    processes: dict[Key, Process] = {}
    measured: dict[str, dict] = {}
    for artifact in artifacts:
        row = measured[artifact.format] = dict.fromkeys(artifact.runtimes)
        if artifact.other_batch:
            continue
        for runtime in artifact.runtimes:
            if runtime in absent:
                continue
            say(f"{artifact.format} with {runtime}: loading.")
            try:
                read, started = inference_runtimes.start_all(artifact, runtime, stack)
            except UserError as error:
                if runtime not in OPTIONAL:
                    raise
                say(f"{artifact.format} with {runtime} is left out: {error}")
                continue
            row[runtime] = {
                "bytes": read.bytes,
                "version": started[1].description["version"],
                "threads": {},
            }
            for threads, process in started.items():
                processes[artifact.format, runtime, threads] = process
    return processes, measured


def _pool(answers: Sequence[Mapping]) -> dict:
    """Returns the figures of a process over all rounds."""
    latencies = [answer["milliseconds"] for answer in answers]
    return {
        "p50": float(np.percentile(latencies, 50)),
        "p90": float(np.percentile(latencies, 90)),
        "p50_of_rounds": np.percentile(latencies, 50, axis=1),
        "peak_memory": answers[-1]["peak_memory"],
    }


def _summarize(
    own: Mapping, reference: Mapping, classes: Sequence[int], batch_size: int
) -> dict:
    """Returns the row of a process, see `compare_inference_cost`.

    The relative latency is the median of the ratios within a round.

    Args:
      own: its description and figures.
      reference: those of the reference with as many threads.
      classes: the top classes that the first of all processes found.
      batch_size: the images of a call.
    """
    ratios = own["p50_of_rounds"] / reference["p50_of_rounds"]
    same = np.equal(own["classes"], classes)
    return {
        "import_seconds": round(own["import_seconds"], 3),
        "load_seconds": round(own["load_seconds"], 4),
        "latency_ms": {
            "p50": round(own["p50"], 4),
            "p90": round(own["p90"], 4),
            "p50_of_rounds": [round(float(each), 4) for each in own["p50_of_rounds"]],
        },
        "images_per_second": round(1e3 * batch_size / own["p50"], 1),
        "peak_memory": own["peak_memory"],
        "agreement": float(np.mean(same)),
        "relative": {
            "load": _ratio(own["load_seconds"], reference["load_seconds"]),
            "latency": round(float(np.median(ratios)), 3),
            "peak_memory": _ratio(own["peak_memory"], reference["peak_memory"]),
        },
    }


def _ratio(own: float | None, reference: float | None) -> float | None:
    return round(own / reference, 3) if own and reference else None


def artifact_table(result: Mapping) -> str:
    """Returns a Markdown table of what `compare_inference_cost` returned.

    A runtime that was left out has no row. Loading and memory are those of the process
    with one thread. Of batches, the images in a second are told as well.
    """
    batch_size = result["batch_size"]

    def cell(text, ratio):
        return "unknown" if ratio is None else f"{text} ({ratio:.2f})"

    def latency(process):
        times = process["latency_ms"]
        return cell(
            f"{times['p50']:.3f} / {times['p90']:.3f}", process["relative"]["latency"]
        )

    rows = [
        (name, runtime, row)
        for name, runtimes in result["measured"].items()
        for runtime, row in runtimes.items()
        if row
    ]
    counts = list(rows[0][2]["threads"])
    titles = ["format", "runtime", "size, kB", "import, s", "load, s"]
    titles += [f"latency, ms, p50 / p90, threads: {count}" for count in counts]
    if batch_size > 1:
        titles += [f"images/s, threads: {count}" for count in counts]
    titles += ["peak memory, MB", "same top class"]
    each_call = f" Each call has {batch_size} images." if batch_size > 1 else ""
    lines = [
        f"In brackets: the ratio to {' with '.join(result['reference'])}.{each_call}",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for name, runtime, row in rows:
        processes = list(row["threads"].values())
        one_thread = processes[0]
        size, memory = row["bytes"] or 0, one_thread["peak_memory"] or 0
        cells = (
            f"`{name}`",
            runtime,
            cell(f"{size / 1e3:,.0f}", row["relative_bytes"]),
            f"{one_thread['import_seconds']:.2f}",
            cell(f"{one_thread['load_seconds']:.3f}", one_thread["relative"]["load"]),
            *map(latency, processes),
            *(
                f"{each['images_per_second']:,.0f}"
                for each in processes
                if batch_size > 1
            ),
            cell(f"{memory / 1e6:,.0f}", one_thread["relative"]["peak_memory"]),
            f"{min(each['agreement'] for each in processes):.0%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"\n`{name}` was left out: {reason}."
        for name, reason in result["left_out"].items()
    ]
    return "\n".join(lines)
