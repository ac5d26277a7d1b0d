"""The formats of an artifact, and worker processes with the runtimes that read them.

Each format is run by each runtime that reads it, with one thread and with all, in a
worker process of its own, `afd_tf.benchmarks.inference_worker`, on the CPU.
"""

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from absl import flags

from afd_tf.artifacts import interpreters, onnx_file
from afd_tf.artifacts.classifier import (
    artifact_from_flags,
    load_classifier,
    load_classifier_from_flags,
)
from afd_tf.artifacts.manifest import FORMATS, MANIFEST
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.benchmarks.worker_process import Worker
from afd_tf.training.checkpoint_choice import checkpoint_from_flags

# oneDNN makes single images slower by an order of magnitude; benchmarks of training
# switch it on. GPUs are not compared here.
ENVIRONMENT = {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}

# Runtimes that this project can do without → the packages that they need.
OPTIONAL = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "tf2onnx")}

_BATCH_SIZE = flags.DEFINE_integer(
    "artifact_batch_size",
    1,
    "Number of images in each call that `artifacts` measures.",
    lower_bound=1,
)

# Kind of a format → the runtimes that read it.
_RUNTIMES = {
    "saved_model": ("tensorflow", "openvino", "onnxruntime"),
    "tflite": ("litert", "openvino"),
    "keras": ("tensorflow",),
    "onnx": ("onnxruntime", "openvino"),
    "openvino": ("openvino",),
}


class Artifact(NamedTuple):
    """One format of what --artifact names.

    Attributes:
      format: "checkpoint", or a key of `manifest.FORMATS`.
      path: what a runtime reads.
      bytes: on disk; None for a run directory, whose checkpoints hold more than a peer.
      task: what `inference_worker.prepare` needs besides the runtime, the path and the
        number of threads.
      batch_size: the images that it was made to take at a time; None is any number.
    """

    format: str
    path: Path
    bytes: int | None
    task: Mapping
    batch_size: int | None = None

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes that read it: its own, then optional ones."""
        if self.format == "checkpoint":
            return ("tensorflow",)
        return _RUNTIMES[FORMATS[self.format].kind]

    @property
    def other_batch(self) -> str | None:
        """Why it cannot take the images of a call; None if it can."""
        wanted = self.task["batch_size"]
        if self.batch_size in (None, wanted):
            return None
        images = "1 image" if self.batch_size == 1 else f"{self.batch_size} images"
        return (
            f"it was made for {images} at a time, not for {wanted}: export it with "
            f"--tflite_batch_size={wanted}, or give --artifact_batch_size="
            f"{self.batch_size}"
        )


class Process(NamedTuple):
    """A worker process that has loaded an artifact.

    Attributes:
      worker: its handle.
      description: its first answer, see `inference_worker.prepare`.
    """

    worker: Worker
    description: Mapping


def artifacts_from_flags() -> list[Artifact]:
    """Returns the formats that --artifact holds, each checked against its manifest.

    Raises:
      UserError: it is no artifact, or it is damaged.
    """
    given = artifact_from_flags()
    classifier = load_classifier_from_flags()
    task = {
        "image_shape": list(classifier.image_shape),
        "batch_size": batch_size_from_flags(),
    }
    if classifier.format == "checkpoint":
        task |= {"peer": str(classifier.chosen), "checkpoint": checkpoint_from_flags()}
        return [Artifact("checkpoint", given, None, task)]
    if given.is_file():
        # OpenVINO's weights are beside the file that is named.
        files = [given]
        if given.suffix == ".xml":
            files.append(given.with_suffix(".bin"))
        size = sum(each.stat().st_size for each in files)
        return [_artifact(classifier.format, given, size, task)]
    # The classifier was loaded, so that the manifest is known to be intact.
    entries = json.loads((given / MANIFEST).read_text("utf-8"))["formats"]
    found = []
    for name, kind in FORMATS.items():
        path = given / kind.path
        required = path / "saved_model.pb" if path.is_dir() else path
        if "path" in entries.get(name, ()) and required.is_file():
            if path != classifier.path:
                # Refuses a damaged file.
                load_classifier(path)
            found.append(_artifact(name, path, entries[name]["bytes"], task))
    return found


def batch_size_from_flags() -> int:
    """Returns --artifact_batch_size."""
    return _BATCH_SIZE.value


def _artifact(name: str, path: Path, size: int, task: Mapping) -> Artifact:
    """Returns a format that can be read, with the batch that its file was made for."""
    is_tflite = FORMATS[name].kind == "tflite"
    batch_size = interpreters.batch_size_of(path) if is_tflite else None
    return Artifact(name, path, size, task, batch_size)


def absent_runtimes() -> list[str]:
    """Returns the optional runtimes that are not installed, and says so on stderr."""
    absent = []
    for runtime, packages in OPTIONAL.items():
        missing = [each for each in packages if importlib.util.find_spec(each) is None]
        if missing:
            say(f"{runtime} is left out: {', '.join(missing)} not installed.")
            absent.append(runtime)
    return absent


def start_all(
    artifact: Artifact, runtime: str, stack: contextlib.ExitStack
) -> tuple[Artifact, dict[int, Process]]:
    """Starts a process with one thread, and one with as many as there are processors.

    Args:
      artifact: to load.
      runtime: one of its `runtimes`.
      stack: whose end also ends the processes.

    Returns:
      what the runtime reads, converted if need be, and the processes by the number of
      their threads.

    Raises:
      UserError: the runtime cannot be imported, or cannot read the artifact.
    """
    if runtime == "onnxruntime" and artifact.format == "saved_model":
        artifact = to_onnx(artifact, stack)
    with contextlib.ExitStack() as unmeasured:
        # Brings the runtime's library, and all else, from the disk into memory.
        _start(artifact, runtime, 1, unmeasured)
    return artifact, {
        threads: _start(artifact, runtime, threads, stack)
        for threads in sorted({1, os.cpu_count() or 1})
    }


def to_onnx(artifact: Artifact, stack: contextlib.ExitStack) -> Artifact:
    """Converts a SavedModel into an ONNX file.

    Args:
      artifact: the SavedModel.
      stack: whose end also removes the file.

    Returns:
      the artifact with the path and the size of the file.

    Raises:
      UserError: it cannot be converted.
    """
    say("saved_model: converting to ONNX.")
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    path = Path(directory) / "model.onnx"
    onnx_file.convert(artifact.path, path)
    return artifact._replace(path=path, bytes=path.stat().st_size)


def _start(
    artifact: Artifact, runtime: str, threads: int, stack: contextlib.ExitStack
) -> Process:
    """Returns a process that has loaded an artifact.

    Raises:
      UserError: it could not load it.
    """
    name = f"{artifact.format} with {runtime}, threads: {threads}"
    task = {
        "runtime": runtime,
        "path": str(artifact.path),
        "threads": threads,
        **artifact.task,
    }
    command = [
        sys.executable,
        "-m",
        "afd_tf.benchmarks.inference_worker",
        json.dumps(task),
    ]
    worker = stack.enter_context(Worker(name, command, ENVIRONMENT, quiet=True))
    description = worker.answer()
    if "refused" in description:
        raise UserError(description["refused"])
    return Process(worker, description)
