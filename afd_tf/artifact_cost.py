"""What each format of an artifact costs who runs it: bytes, start, latency, memory.

Each format is run by each runtime that reads it, with one thread and with all, in a
process of its own (`afd_tf.artifact_worker`), on the CPU. They are started one after
the other, each once before unmeasured, and then take turns, one picture at a time: the
others wait. Loading is measured once, from files that the system has in memory.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from afd_tf import turns
from afd_tf.artifact import FORMATS
from afd_tf.checkpoint import checkpoint_from_flags
from afd_tf.errors import UserError
from afd_tf.journal import say
from afd_tf.runner import (
    MANIFEST,
    artifact_from_flags,
    load_runner,
    load_runner_from_flags,
)

# oneDNN makes single pictures slower by an order of magnitude; benchmarks of training
# switch it on. A GPU is not what is compared here.
ENVIRONMENT = {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}

# What others are compared with, where it is there.
REFERENCE = ("tflite", "litert")

# Runtimes that this project can do without → the packages that they need.
OPTIONAL = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "tf2onnx")}


class Artifact(NamedTuple):
    """A format that was found.

    Attributes:
      format: "checkpoint", or a format of `afd_tf.artifact`.
      path: what a runtime reads.
      bytes: on disk; None of a run directory, whose checkpoints hold more than a peer.
      task: what `artifact_worker.prepare` needs besides the runtime and the threads.
    """

    format: str
    path: Path
    bytes: int | None
    task: Mapping

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Its own runtime, then optional ones."""
        if self.format == "checkpoint":
            return ("tensorflow",)
        if self.format == "saved_model":
            return ("tensorflow", "openvino", "onnxruntime")
        return ("litert", "openvino")


def artifacts_from_flags() -> list[Artifact]:
    """Returns what --artifact holds, each format checked against its manifest.

    Raises:
      UserError: it is no artifact, or damaged.
    """
    given = artifact_from_flags()
    runner = load_runner_from_flags()
    task = {"image_shape": list(runner.image_shape)}
    if runner.format == "checkpoint":
        task |= {"peer": str(runner.chosen), "checkpoint": checkpoint_from_flags()}
        return [Artifact("checkpoint", given, None, task)]
    if given.is_file():
        return [Artifact(runner.format, given, given.stat().st_size, task)]
    # Loading has found it whole.
    entries = json.loads((given / MANIFEST).read_text("utf-8"))["formats"]
    found = []
    for name, kind in FORMATS.items():
        path = given / kind.path
        mark = path / "saved_model.pb" if path.is_dir() else path
        if "path" in entries.get(name, ()) and mark.is_file():
            if path != runner.path:
                load_runner(path)
            found.append(Artifact(name, path, entries[name]["bytes"], task))
    return found


def compare(found: Sequence[Artifact], rounds: int, steps: int) -> dict:
    """Measures artifacts with all runtimes that are installed.

    Args:
      found: at least one, all of the same network.
      rounds: turns of each process.
      steps: pictures of a turn.

    Returns:
      "reference": the format and the runtime that others are compared with;
      "measured": by format and runtime None for one that is left out, else {"bytes",
      "relative_bytes", "version", "threads": by their number see `_summarize`}.

    Raises:
      UserError: a runtime that is no optional one fails, or a process ends.
    """
    absent = _absent_runtimes()
    workers: dict[tuple, turns.Worker] = {}
    descriptions: dict[tuple, dict] = {}
    measured: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        for artifact in found:
            row = measured[artifact.format] = dict.fromkeys(artifact.runtimes)
            for runtime in artifact.runtimes:
                if runtime in absent:
                    continue
                say(f"{artifact.format} with {runtime}: loading.")
                try:
                    read, started = _start_all(artifact, runtime, stack)
                except UserError as error:
                    if runtime not in OPTIONAL:
                        raise
                    say(f"{artifact.format} with {runtime} is left out: {error}")
                    continue
                for threads, (worker, description) in started.items():
                    key = (artifact.format, runtime, threads)
                    workers[key], descriptions[key] = worker, description
                row[runtime] = {
                    "bytes": read.bytes,
                    "version": description["version"],
                    "threads": {},
                }
        say(f"{len(workers)} processes take turns.")
        answers = turns.in_turns(list(workers.values()), rounds, {"steps": steps})
    results = {
        key: {**descriptions[key], **_pool(own)}
        for key, own in zip(workers, answers, strict=True)
    }
    first = next(iter(results))
    reference = REFERENCE if (*REFERENCE, 1) in results else first[:2]
    for (name, runtime, threads), own in results.items():
        row = measured[name][runtime]
        row["relative_bytes"] = _ratio(
            row["bytes"], measured[reference[0]][reference[1]]["bytes"]
        )
        row["threads"][str(threads)] = _summarize(
            own, results[(*reference, threads)], results[first]["classes"]
        )
    return {"reference": list(reference), "measured": measured}


def _thread_counts() -> list[int]:
    return sorted({1, os.cpu_count() or 1})


def _absent_runtimes() -> list[str]:
    """Returns the optional runtimes that are not installed, and says so."""
    absent = []
    for runtime, packages in OPTIONAL.items():
        missing = [each for each in packages if importlib.util.find_spec(each) is None]
        if missing:
            say(f"{runtime} is left out: {', '.join(missing)} not installed.")
            absent.append(runtime)
    return absent


def _start_all(
    artifact: Artifact, runtime: str, stack: contextlib.ExitStack
) -> tuple[Artifact, dict[int, tuple[turns.Worker, dict]]]:
    """Returns what the runtime reads, and by the number of threads what `_start` does.

    Raises:
      UserError: it cannot be had or loaded.
    """
    if runtime == "onnxruntime":
        artifact = _to_onnx(artifact, stack)
    with contextlib.ExitStack() as unmeasured:
        # Reads the runtime's library, and all else, from the disk.
        _start(artifact, runtime, 1, unmeasured)
    return artifact, {
        threads: _start(artifact, runtime, threads, stack)
        for threads in _thread_counts()
    }


def _to_onnx(artifact: Artifact, stack: contextlib.ExitStack) -> Artifact:
    """Converts a SavedModel; the file goes with the stack.

    Raises:
      UserError: it cannot be converted.
    """
    say("saved_model: converting to ONNX.")
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    path = Path(directory) / "model.onnx"
    # It is made to be a program: imported, it changes TensorFlow's settings.
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tf2onnx.convert", "--opset=17"),
            *(f"--saved-model={artifact.path}", f"--output={path}"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        check=False,
    )
    if result.returncode or not path.is_file():
        *_, last = ["it said nothing", *result.stderr.strip().splitlines()]
        raise UserError(f"tf2onnx cannot convert {artifact.path}: {last}")
    return artifact._replace(path=path, bytes=path.stat().st_size)


def _start(
    artifact: Artifact, runtime: str, threads: int, stack: contextlib.ExitStack
) -> tuple[turns.Worker, dict]:
    """Returns a process that has loaded an artifact, and what it says of that.

    Raises:
      UserError: it could not.
    """
    name = f"{artifact.format} with {runtime}, threads: {threads}"
    task = {
        "runtime": runtime,
        "path": str(artifact.path),
        "threads": threads,
        **artifact.task,
    }
    command = [sys.executable, "-m", "afd_tf.artifact_worker", json.dumps(task)]
    worker = stack.enter_context(turns.Worker(name, command, ENVIRONMENT, quiet=True))
    description = worker.answer()
    if "refused" in description:
        raise UserError(description["refused"])
    return worker, description


def _pool(answers: Sequence[Mapping]) -> dict:
    """Returns the figures of all turns of a process."""
    latencies = [answer["milliseconds"] for answer in answers]
    return {
        "p50": float(np.percentile(latencies, 50)),
        "p90": float(np.percentile(latencies, 90)),
        "p50_of_rounds": np.percentile(latencies, 50, axis=1),
        "peak_memory": answers[-1]["peak_memory"],
    }


def _summarize(own: Mapping, reference: Mapping, classes: Sequence[int]) -> dict:
    """Returns what is told of a process.

    Args:
      own: its figures.
      reference: those of the reference with as many threads.
      classes: that the first of all processes says.

    Returns:
      "import_seconds" of the runtime, "load_seconds" from there to the first answer,
      "latency_ms": {"p50", "p90", "p50_of_rounds"}, "peak_memory" in bytes,
      "agreement": the fraction of pictures with the same top class as `classes`, and
      "relative": ratios to the reference; that of "latency" is the median of those
      within a round.
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
