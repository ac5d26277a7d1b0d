"""The worker that runs an artifact: each runtime, in a process of its own."""

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.benchmarks import inference_runtimes
from tests import exports

WORKER = "afd_tf.benchmarks.inference_worker"
DEFAULTS = {"threads": 1, "batch_size": 1}


def run_worker(**task):
    """The description that a worker gives."""
    with subprocess.Popen(
        [sys.executable, "-m", WORKER, json.dumps(DEFAULTS | task)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        worker.stdin.write('{"steps": 2}\n')
        worker.stdin.flush()
        first = json.loads(worker.stdout.readline())
        if "refused" not in first:
            assert len(json.loads(worker.stdout.readline())["milliseconds"]) == 2
        return first


def classes_of(peer, count=16):
    """The top classes of a peer for the images of the workers."""
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return exports.logits_of(peer, images).argmax(axis=-1).tolist()


def artifacts_in(path):
    """The formats that --artifact=path holds."""
    with flagsaver.as_parsed(artifact=str(path)):
        return inference_runtimes.artifacts_from_flags()


def test_a_run_is_measured_by_its_peer(run_dir):
    directory, peers = run_dir
    (found,) = artifacts_in(directory)
    assert found.format == "checkpoint"
    assert found.bytes is None
    assert found.runtimes == ("tensorflow",)
    assert found.task["peer"] == "1"
    description = run_worker(runtime="tensorflow", path=str(directory), **found.task)
    assert description["classes"] == classes_of(peers[1])


# Of 16 images and, in batches, some more.
@pytest.mark.parametrize(
    ("runtime", "name", "batch_size"),
    [
        ("tensorflow", "", 1),
        ("litert", "model.tflite", 1),
        ("openvino", "", 8),
        ("openvino", "model.tflite", 1),
        ("tensorflow", "model.keras", 5),
        ("onnxruntime", "model.onnx", 5),
        ("openvino", "model.onnx", 1),
        ("openvino", "model.xml", 5),
    ],
)
def test_a_runtime_finds_the_classes_of_the_peer(deployed, runtime, name, batch_size):
    if runtime in inference_runtimes.OPTIONAL:
        pytest.importorskip(runtime)
    peer, _, directory = deployed
    description = run_worker(
        runtime=runtime,
        path=str(directory / name),
        image_shape=[8, 8, 1],
        batch_size=batch_size,
    )
    images = -(-16 // batch_size) * batch_size
    assert description["classes"] == classes_of(peer, images)
    assert description["load_seconds"] > 0
    assert description["version"][0].isdecimal()


def test_onnx_runtime_finds_the_classes_of_the_peer(exported):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    peer, _, directory = exported
    with contextlib.ExitStack() as stack:
        saved_model = artifacts_in(directory)[0]
        onnx = inference_runtimes.to_onnx(saved_model, stack)
        assert onnx.bytes == onnx.path.stat().st_size
        description = run_worker(
            runtime="onnxruntime", path=str(onnx.path), **onnx.task
        )
        assert description["classes"] == classes_of(peer)
    assert not onnx.path.exists()


def test_the_message_of_a_runtime_is_one_line(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"none")
    answer = run_worker(runtime="litert", path=str(path), image_shape=[8, 8, 1])
    assert answer["refused"].startswith(f"litert cannot run {path}: ValueError: ")
    assert "\n" not in answer["refused"]
