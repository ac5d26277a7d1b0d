"""The worker process that runs one artifact with one runtime, for `inference_cost`.

    python -m afd_tf.benchmarks.inference_worker '{"runtime": ..., "path": ..., ...}'

It imports that runtime and what the runtime needs, and nothing else, so that its peak
memory is that of a program that only runs the artifact.
"""

import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from afd_tf.base.errors import UserError
from afd_tf.benchmarks.worker_process import resident_peak, serve

# `afd_tf.artifacts.manifest.SIGNATURE`, whose module imports TensorFlow.
_SIGNATURE = "serving_default"
_IMAGES = 16
# Images that are not measured, as another process has filled the processor's caches.
_WARM_UP = 5

# uint8 [B, h, w, c] → float [B, classes], logits or, as only the top class is used,
# probabilities.
Function = Callable[[np.ndarray], np.ndarray]


def prepare(task: Mapping[str, Any]) -> tuple[dict, Callable[[Mapping], dict]]:
    """Loads an artifact and runs it for the first time.

    Args:
      task: "runtime", a key of `LOADERS`; "path"; "image_shape", [h, w, c];
        "batch_size", the images of a call; "threads", their number; and for a run
        directory "peer" and "checkpoint".

    Returns:
      "version" of the runtime, "import_seconds", "load_seconds" until the first batch
      has its logits, and "classes", the top classes of at least 16 images that are
      always the same; and a function that answers {"steps": n} with "milliseconds" of
      each of n calls and "peak_memory" in bytes.

    Raises:
      UserError: the runtime cannot run it.
    """
    package, import_runtime, load = LOADERS[task["runtime"]]
    batch_size = task["batch_size"]
    batches = np.random.default_rng(0).integers(
        0,
        256,
        (-(-_IMAGES // batch_size), batch_size, *task["image_shape"]),
        dtype=np.uint8,
    )
    # Each runtime has exceptions of its own.
    try:
        began = time.perf_counter()
        module = import_runtime()
        imported = time.perf_counter()
        run = load(module, task)
        run(batches[0])
        loaded = time.perf_counter()
        logits = np.concatenate([run(batch) for batch in batches])
        classes = np.argmax(logits, axis=-1).tolist()
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
            run(batches[0])
        for _ in range(request["steps"]):
            began = time.perf_counter()
            run(batches[0])
            milliseconds.append(round(1e3 * (time.perf_counter() - began), 4))
        return {"milliseconds": milliseconds, "peak_memory": resident_peak()}

    return {
        "version": importlib.metadata.version(package),
        "import_seconds": imported - began,
        "load_seconds": loaded - imported,
        "classes": classes,
    }, answer


def _import_tensorflow():
    from afd_tf.base.command_line import prepare_environment

    # Keeps TensorFlow's messages from stderr.
    prepare_environment()
    return importlib.import_module("tensorflow")


def _load_tensorflow(tf, task) -> Function:
    tf.config.threading.set_intra_op_parallelism_threads(task["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(task["threads"])
    if task.get("checkpoint"):
        # Only a run directory needs this project.
        from afd_tf.artifacts.classifier import load_classifier

        return load_classifier(
            task["path"], peer=task["peer"], checkpoint=task["checkpoint"]
        ).logits
    if task["path"].endswith(".keras"):
        # Loaded without the description, which this process does not need.
        model = importlib.import_module("keras").saving.load_model(
            task["path"], compile=False, safe_mode=True
        )
        return tf.function(model, reduce_retracing=True)
    loaded = tf.saved_model.load(task["path"])
    signature = loaded.signatures[_SIGNATURE]

    def run(images):
        # The variables live as long as `loaded` does.
        assert loaded
        return signature(image=tf.constant(images))["logits"].numpy()

    return run


def _load_litert(interpreter, task) -> Function:
    signature = interpreter.Interpreter(
        task["path"], num_threads=task["threads"]
    ).get_signature_runner(_SIGNATURE)
    outputs = signature.get_output_details()
    answer = "probabilities" if "probabilities" in outputs else "logits"
    return lambda images: signature(image=images)[answer]


def _load_openvino(openvino, task) -> Function:
    core = openvino.Core()
    model = core.read_model(task["path"])
    # A SavedModel leaves the batch size open.
    model.reshape([task["batch_size"], *task["image_shape"]])
    settings = {
        "INFERENCE_NUM_THREADS": task["threads"],
        # On some processors the default is bfloat16.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(model, "CPU", settings)
    names = [name for output in compiled.outputs for name in output.get_names()]
    # OpenVINO does not read the signature's names in a .tflite file.
    logits = compiled.output("logits" if "logits" in names else 0)
    request = compiled.create_infer_request()
    return lambda images: request.infer([images])[logits]


def _load_onnxruntime(onnxruntime, task) -> Function:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    session = onnxruntime.InferenceSession(
        task["path"], options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["logits"], {"image": images})[0]


# Runtime → its package, a function that imports it, a function that loads an artifact.
# Modules are imported by name, as the optional runtimes need not be installed.
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
    serve(lambda: prepare(json.loads(sys.argv[1])))
