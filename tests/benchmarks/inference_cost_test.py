"""The cost of inference: figures of known latencies, and of real processes."""

import json
import subprocess
import sys

import pytest
from absl.testing import flagsaver

from afd_tf import benchmark
from afd_tf.base.errors import UserError
from afd_tf.benchmarks import inference_cost, inference_runtimes

WORKER = "afd_tf.benchmarks.inference_worker"

# Runs instead of `afd_tf.benchmarks.inference_worker`: no runtime, known latencies.
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
    monkeypatch.setattr(inference_runtimes, "to_onnx", to_onnx)
    monkeypatch.setattr(inference_runtimes, "absent_runtimes", list)
    monkeypatch.setattr(inference_runtimes.os, "cpu_count", lambda: 2)


def test_the_figures_of_processes(fakes, exported, capsys):
    *_, directory = exported
    with flagsaver.as_parsed(artifact=str(directory)):
        found = inference_runtimes.artifacts_from_flags()
    int8 = found[1]._replace(format="tflite_int8", path=directory / "int8.tflite")
    result = inference_cost.compare_inference_cost([*found, int8], rounds=3, steps=4)
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
    assert two["images_per_second"] == 80
    table = inference_cost.artifact_table(result).splitlines()
    assert "| `saved_model` | tensorflow |" in table[4]
    assert len(table) == 4 + 5
    assert {line.count("|") for line in table[2:]} == {10}


def test_batches_and_files_that_were_made_for_others(fakes, exported, capsys):
    *_, directory = exported
    with flagsaver.as_parsed(artifact=str(directory), artifact_batch_size="8"):
        found = inference_runtimes.artifacts_from_flags()
        result = inference_cost.compare_inference_cost(found, rounds=2, steps=3)
    reason = (
        "it was made for 1 image at a time, not for 8: export it with "
        "--tflite_batch_size=8, or give --artifact_batch_size=1"
    )
    assert f"tflite is left out: {reason}." in capsys.readouterr().err
    assert result["left_out"] == {"tflite": reason}
    assert result["measured"]["tflite"] == {"litert": None, "openvino": None}
    assert result["batch_size"] == 8
    assert result["reference"] == ["saved_model", "tensorflow"]
    row = result["measured"]["saved_model"]["tensorflow"]["threads"]["1"]
    # Of rounds of 10 and 20 ms, with one call that takes a second.
    assert row["latency_ms"]["p50"] == 20
    assert row["images_per_second"] == 8 / 0.020
    table = inference_cost.artifact_table(result).splitlines()
    assert "Each call has 8 images." in table[0]
    assert "images/s, threads: 1" in table[2] and "| 400 |" in table[4]
    assert table[-1] == f"`tflite` was left out: {reason}."
    (tflite,) = (each for each in found if each.format == "tflite")
    with pytest.raises(UserError, match="nothing in --artifact takes 8 images at a"):
        inference_cost.compare_inference_cost([tflite], rounds=2, steps=3)


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
