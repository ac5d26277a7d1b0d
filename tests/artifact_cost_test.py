"""What artifacts cost: real formats in real processes, and workers that fail."""

import contextlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf import artifact_cost, benchmark
from afd_tf.errors import UserError
from tests import exports

WORKER = "afd_tf.artifact_worker"

# In the place of `afd_tf.artifact_worker`: no runtime, latencies by heart.
FAKE = """
import json, os, signal, sys
task = json.loads(sys.argv[-1])
runtime, threads = task["runtime"], task["threads"]
if runtime == "onnxruntime" and threads == 2:
    os.kill(os.getpid(), signal.SIGSEGV)
def say(values):
    print(json.dumps(values), flush=True)
if runtime == "openvino" and task["path"].endswith("int8.tflite"):
    say({"refused": "no int8 today"})
    sys.exit(0)
scale = {"tensorflow": 10, "litert": 1}.get(runtime, 2)
say({"version": "1", "import_seconds": 1, "load_seconds": scale,
     "classes": [1, 2] if runtime != "litert" else [1, 3],
     "oneDNN": os.environ["TF_ENABLE_ONEDNN_OPTS"]})
for number, line in enumerate(sys.stdin):
    steps = json.loads(line)["steps"]
    say({"milliseconds": [scale * (1 + number) / threads] * (steps - 1) + [1000],
         "peak_memory": 1000 * scale + number})
"""


@pytest.fixture
def fakes(monkeypatch):
    """Fake workers, two processors and every runtime."""
    popen = subprocess.Popen

    def start(command, **settings):
        if WORKER in command:
            command = [sys.executable, "-c", FAKE, command[-1]]
        return popen(command, **settings)

    def to_onnx(artifact, stack):
        return artifact

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(artifact_cost, "_to_onnx", to_onnx)
    monkeypatch.setattr(artifact_cost, "_absent_runtimes", list)
    monkeypatch.setattr(artifact_cost.os, "cpu_count", lambda: 2)


def run_worker(**task):
    """The description that a worker gives."""
    with subprocess.Popen(
        [sys.executable, "-m", WORKER, json.dumps({"threads": 1, **task})],
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


def classes_of(peer):
    """What a peer says of the pictures of the workers."""
    pictures = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
    return exports.logits_of(peer, pictures).argmax(axis=-1).tolist()


def found_in(path):
    with flagsaver.as_parsed(artifact=str(path)):
        return artifact_cost.artifacts_from_flags()


def test_an_artifact_is_found_with_its_formats(exported, tmp_path):
    _, answer, directory = exported
    found = found_in(directory)
    assert [each.format for each in found] == ["saved_model", "tflite"]
    for each in found:
        assert each.bytes == answer["formats"][each.format]["bytes"]
        assert each.task == {"image_shape": [8, 8, 1]}
    (alone,) = found_in(directory / "model.tflite")
    assert alone == found[1]
    # Half of it was taken away.
    half = shutil.copytree(directory, tmp_path / "half")
    (half / "saved_model.pb").unlink()
    assert [each.format for each in found_in(half)] == ["tflite"]
    (half / "model.tflite").write_bytes(b"other")
    with pytest.raises(UserError, match="it is damaged or was replaced"):
        found_in(half)
    with pytest.raises(UserError, match="there is no artifact"):
        found_in(tmp_path / "none")


def test_a_run_is_measured_by_its_peer(run_dir):
    directory, peers = run_dir
    (found,) = found_in(directory)
    assert found.format == "checkpoint"
    assert found.bytes is None
    assert found.runtimes == ("tensorflow",)
    assert found.task["peer"] == "1"
    description = run_worker(runtime="tensorflow", path=str(directory), **found.task)
    assert description["classes"] == classes_of(peers[1])


def test_the_figures_of_processes(fakes, exported, capsys):
    *_, directory = exported
    found = found_in(directory)
    int8 = found[1]._replace(format="tflite_int8", path=directory / "int8.tflite")
    result = artifact_cost.compare([*found, int8], rounds=3, steps=4)
    said = capsys.readouterr().err
    assert result["reference"] == ["tflite", "litert"]
    measured = result["measured"]
    assert {name: list(each) for name, each in measured.items()} == {
        "saved_model": ["tensorflow", "openvino", "onnxruntime"],
        "tflite": ["litert", "openvino"],
        "tflite_int8": ["litert", "openvino"],
    }
    # One that refuses, and one of whose processes only one came up.
    assert measured["tflite_int8"]["openvino"] is None
    assert "tflite_int8 with openvino is left out: no int8 today" in said
    assert measured["saved_model"]["onnxruntime"] is None
    assert "saved_model with onnxruntime is left out: the worker of" in said
    row = measured["saved_model"]["tensorflow"]
    assert row["relative_bytes"] == round(found[0].bytes / found[1].bytes, 3)
    assert list(row["threads"]) == ["1", "2"]
    two = row["threads"]["2"]
    assert two["latency_ms"]["p50_of_rounds"] == [5, 10, 15]
    assert two["latency_ms"]["p50"] == 12.5
    assert two["latency_ms"]["p90"] == 1000
    # Beside the reference with two threads.
    assert two["relative"] == {"load": 10.0, "latency": 10.0, "peak_memory": 9.982}
    assert two["peak_memory"] == 10002
    assert two["agreement"] == 1.0
    assert measured["tflite"]["litert"]["threads"]["1"]["agreement"] == 0.5
    table = benchmark.artifact_table(**result).splitlines()
    assert "| `saved_model` | tensorflow |" in table[4]
    assert len(table) == 4 + 5
    assert {line.count("|") for line in table[2:]} == {10}


def test_what_is_missing_is_left_out(exported, monkeypatch, capsys):
    monkeypatch.setitem(artifact_cost.OPTIONAL, "openvino", ("openvino_no_such",))
    monkeypatch.setitem(artifact_cost.OPTIONAL, "onnxruntime", ("json", "no_such"))
    assert artifact_cost._absent_runtimes() == ["openvino", "onnxruntime"]
    assert "onnxruntime is left out: no_such not installed." in capsys.readouterr().err


def test_artifacts_are_measured_in_processes_of_their_own(exported, capfd):
    *_, directory = exported
    tflite = directory / "model.tflite"
    with flagsaver.as_parsed(artifact=str(tflite), rounds="2", steps="20"):
        benchmark.main(["benchmark", "artifacts"])
    captured = capfd.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert result["environment"]["onednn"] == "0"
    assert "| `tflite` | litert |" in captured.err
    for process in result["measured"]["tflite"]["litert"]["threads"].values():
        assert process["agreement"] == 1.0
        assert process["relative"]["latency"] == 1.0
        times = process["latency_ms"]
        assert 0 < times["p50"] <= times["p90"] < 1000
        # It has no TensorFlow inside.
        assert 10e6 < process["peak_memory"] < 200e6


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("tensorflow", ""),
        ("litert", "model.tflite"),
        ("openvino", ""),
        ("openvino", "model.tflite"),
    ],
)
def test_a_runtime_says_what_the_peer_says(exported, runtime, name):
    if runtime in artifact_cost.OPTIONAL:
        pytest.importorskip(runtime)
    peer, _, directory = exported
    path = directory / name
    description = run_worker(runtime=runtime, path=str(path), image_shape=[8, 8, 1])
    assert description["classes"] == classes_of(peer)
    assert description["load_seconds"] > 0
    assert description["version"][0].isdecimal()


def test_onnx_runtime_says_what_the_peer_says(exported):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    peer, _, directory = exported
    with contextlib.ExitStack() as stack:
        saved_model = found_in(directory)[0]
        onnx = artifact_cost._to_onnx(saved_model, stack)
        assert onnx.bytes == onnx.path.stat().st_size
        description = run_worker(
            runtime="onnxruntime", path=str(onnx.path), **onnx.task
        )
        assert description["classes"] == classes_of(peer)
    assert not onnx.path.exists()


def test_what_a_runtime_raises_is_one_line(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"none")
    said = run_worker(runtime="litert", path=str(path), image_shape=[8, 8, 1])
    assert said["refused"].startswith(f"litert cannot run {path}: ValueError: ")
    assert "\n" not in said["refused"]
