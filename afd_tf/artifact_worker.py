"""A process that runs one artifact with one runtime; `afd_tf.artifact_cost` asks it.

    python -m afd_tf.artifact_worker '{"runtime": ..., ...}'

It imports that runtime and nothing that this does not need, so that its memory is what
a program needs that only runs the artifact.
"""

import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from afd_tf import turns
from afd_tf.errors import UserError

# Of `serving_default`; not from `afd_tf.runner`, which imports TensorFlow.
_SIGNATURE = "serving_default"
_PICTURES = 16
# After another process had the processor's caches.
_WARM_UP = 5

# uint8 [1, h, w, c] → logits [1, classes]; for the top class, probabilities will do.
Function = Callable[[np.ndarray], np.ndarray]


def prepare(task: Mapping[str, Any]) -> tuple[dict, Callable[[Mapping], dict]]:
    """Loads an artifact and runs it once.

    Args:
      task: "runtime", of `LOADERS`; "path"; "image_shape"; "threads"; of a run
        directory, "peer" and "checkpoint".

    Returns:
      {"version": of the runtime, "import_seconds", "load_seconds": until the first
      picture's logits are there, "classes": of some pictures, always the same}, and
      what answers {"steps": n} with {"milliseconds": of each picture, "peak_memory"}.

    Raises:
      UserError: the runtime cannot run it.
    """
    package, import_runtime, load = LOADERS[task["runtime"]]
    pictures = np.random.default_rng(0).integers(
        0, 256, (_PICTURES, 1, *task["image_shape"]), dtype=np.uint8
    )
    # They raise whatever they like.
    try:
        began = time.perf_counter()
        module = import_runtime()
        imported = time.perf_counter()
        run = load(module, task)
        run(pictures[0])
        loaded = time.perf_counter()
        classes = [int(np.argmax(run(picture))) for picture in pictures]
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{task['runtime']} cannot run {task['path']}: "
            f"{type(error).__name__}: {reason}"
        ) from error

    def answer(request):
        milliseconds = []
        for _ in range(_WARM_UP):
            run(pictures[0])
        for _ in range(request["steps"]):
            began = time.perf_counter()
            run(pictures[0])
            milliseconds.append(round(1e3 * (time.perf_counter() - began), 4))
        return {"milliseconds": milliseconds, "peak_memory": turns.resident_peak()}

    return {
        "version": importlib.metadata.version(package),
        "import_seconds": imported - began,
        "load_seconds": loaded - imported,
        "classes": classes,
    }, answer


def _import_tensorflow():
    from afd_tf.command_line import prepare_environment

    # Quietly.
    prepare_environment()
    return importlib.import_module("tensorflow")


def _load_tensorflow(tf, task) -> Function:
    tf.config.threading.set_intra_op_parallelism_threads(task["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(task["threads"])
    if task.get("checkpoint"):
        from afd_tf.runner import load_runner

        # Only a run directory needs this project.
        return load_runner(
            task["path"], peer=task["peer"], checkpoint=task["checkpoint"]
        ).logits
    loaded = tf.saved_model.load(task["path"])
    signature = loaded.signatures[_SIGNATURE]

    def run(picture):
        # `loaded` keeps the variables.
        assert loaded
        return signature(image=tf.constant(picture))["logits"].numpy()

    return run


def _load_litert(interpreter, task) -> Function:
    signature = interpreter.Interpreter(
        task["path"], num_threads=task["threads"]
    ).get_signature_runner(_SIGNATURE)
    return lambda picture: signature(image=picture)["logits"]


def _load_openvino(openvino, task) -> Function:
    core = openvino.Core()
    model = core.read_model(task["path"])
    # One picture, which a SavedModel leaves open.
    model.reshape([1, *task["image_shape"]])
    settings = {
        "INFERENCE_NUM_THREADS": task["threads"],
        # On some processors it would take bfloat16.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(model, "CPU", settings)
    names = [name for output in compiled.outputs for name in output.get_names()]
    # In a .tflite file it does not see the signature's names.
    logits = compiled.output("logits" if "logits" in names else 0)
    request = compiled.create_infer_request()
    return lambda picture: request.infer([picture])[logits]


def _load_onnxruntime(onnxruntime, task) -> Function:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    session = onnxruntime.InferenceSession(
        task["path"], options, providers=["CPUExecutionProvider"]
    )
    return lambda picture: session.run(["logits"], {"image": picture})[0]


# Runtime → its package, what imports it, what loads with it. The optional ones are
# imported by name, as this project does not ask for them.
LOADERS = {
    "tensorflow": ("tensorflow", _import_tensorflow, _load_tensorflow),
    "litert": (
        "ai-edge-litert",
        lambda: importlib.import_module("ai_edge_litert.interpreter"),
        _load_litert,
    ),
    "openvino": (
        "openvino",
        lambda: importlib.import_module("openvino"),
        _load_openvino,
    ),
    "onnxruntime": (
        "onnxruntime",
        lambda: importlib.import_module("onnxruntime"),
        _load_onnxruntime,
    ),
}


if __name__ == "__main__":
    turns.serve(lambda: prepare(json.loads(sys.argv[1])))
