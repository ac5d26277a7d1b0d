"""The commands of examples/serving/README.md, against a stand-in.

Real TensorFlow Serving was not run: there is no package of it. What answers here is a
small server in this file, on the official protocol buffers and gRPC service, with REST
after https://www.tensorflow.org/tfx/serving/api_rest (row format). It knows nothing of
afd_tf: it loads the SavedModel and calls the signature that a request names.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn import datasets

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.data.image_files import read_image
from tests import exports

pytest.importorskip("tensorflow_serving", reason="requirements-serving.txt is missing")

import grpc
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "serving"
SECONDS = 60


class RequestError(Exception):
    """A request that TensorFlow Serving answers with an error."""

    def __init__(self, grpc_code, http_status, message):
        super().__init__(message)
        self.grpc_code = grpc_code
        self.http_status = http_status


def invalid(message) -> RequestError:
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, 400, message)


class Models:
    """The newest version of every model of a models.config."""

    def __init__(self, config: Path, models_directory: Path):
        parsed = text_format.Parse(
            config.read_text(), model_server_config_pb2.ModelServerConfig()
        )
        self._loaded = {}
        for entry in parsed.model_config_list.config:
            assert entry.model_platform == "tensorflow"
            base_path = models_directory / Path(entry.base_path).relative_to("/models")
            versions = [path for path in base_path.iterdir() if path.name.isdecimal()]
            newest = max(versions, key=lambda path: int(path.name))
            self._loaded[entry.name] = tf.saved_model.load(str(newest))

    def signature(self, model, name):
        if model not in self._loaded:
            message = f"Servable not found for request: Latest({model})"
            raise RequestError(grpc.StatusCode.NOT_FOUND, 404, message)
        signatures = self._loaded[model].signatures
        name = name or "serving_default"
        if name not in signatures:
            raise invalid(f'Serving signature key "{name}" not found.')
        return signatures[name]

    def predict(self, signature, inputs) -> dict[str, np.ndarray]:
        specs = input_specs(signature)
        if inputs.keys() != specs.keys():
            raise invalid(f"input names are {sorted(specs)}, not {sorted(inputs)}")
        for name, spec in specs.items():
            value = inputs[name]
            if value.dtype != spec.dtype or not spec.shape.is_compatible_with(
                value.shape
            ):
                raise invalid(f"{name} must be {spec}, not {value.dtype} {value.shape}")
        try:
            outputs = signature(**inputs)
        except tf.errors.InvalidArgumentError as error:
            raise invalid(error.message) from error
        return {name: output.numpy() for name, output in outputs.items()}


def input_specs(signature) -> dict[str, tf.TensorSpec]:
    return signature.structured_input_signature[1]


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models):
        self._models = models

    def Predict(self, request, context):  # noqa: N802 (its name in the service)
        try:
            signature = self._models.signature(
                request.model_spec.name, request.model_spec.signature_name
            )
            inputs = {
                name: tf.constant(tf.make_ndarray(value))
                for name, value in request.inputs.items()
            }
            outputs = self._models.predict(signature, inputs)
        except RequestError as error:
            context.abort(error.grpc_code, str(error))
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


def rest_answer(models, path, body) -> dict:
    """Returns what the REST interface answers in row format."""
    match = re.fullmatch(r"/v1/models/([^/:]+):predict", path)
    if not match:
        raise invalid(f"Malformed request: POST {path}")
    try:
        request = json.loads(body)
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if set(request) - {"signature_name"} != {"instances"}:
        raise invalid("expected 'instances' and perhaps 'signature_name'")
    signature = models.signature(match[1], request.get("signature_name"))
    specs = input_specs(signature)
    rows = request["instances"]
    if not all(isinstance(row, dict) and set(row) != {"b64"} for row in rows):
        # The name may be left out where there is one input.
        (only,) = specs
        rows = [{only: row} for row in rows]
    inputs = {
        name: tf.constant([from_json(row[name], spec.dtype) for row in rows])
        for name, spec in specs.items()
        if all(name in row for row in rows)
    }
    inputs = {name: tf.cast(value, specs[name].dtype) for name, value in inputs.items()}
    outputs = models.predict(signature, inputs)
    return {
        "predictions": [
            {name: to_json(name, value[row]) for name, value in outputs.items()}
            for row in range(len(rows))
        ]
    }


def from_json(value, dtype):
    if isinstance(value, list):
        return [from_json(item, dtype) for item in value]
    if dtype == tf.string:
        if isinstance(value, dict):
            return base64.b64decode(value["b64"], validate=True)
        if isinstance(value, str):
            return value.encode()
    elif isinstance(value, int) and dtype.min <= value <= dtype.max:
        return value
    raise invalid(f"JSON Value: {value} is not convertible to type {dtype.name}")


def to_json(name, value):
    if value.dtype != object:
        return value.tolist()
    # Only outputs that say so by their name are taken for bytes.
    assert not name.endswith("_bytes")
    return [text.decode() for text in value]


@contextlib.contextmanager
def rest_server(models):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                status, answer = 200, rest_answer(models, self.path, body)
            except RequestError as error:
                status, answer = error.http_status, {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextlib.contextmanager
def grpc_server(models):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Servicer(models), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(grace=None)


@pytest.fixture(scope="module")
def classifier(exported):
    *_, version = exported
    return load_classifier(version)


@pytest.fixture(scope="module")
def ports(exported):
    """By the number that the README has."""
    *_, version = exported
    models = Models(EXAMPLE / "models.config", version.parents[1])
    with rest_server(models) as rest, grpc_server(models) as rpc:
        yield {8501: rest, 8500: rpc}


@pytest.fixture
def images(tmp_path) -> list[Path]:
    paths = [tmp_path / name for name in ("image.png", "another.png")]
    for path, pixels in zip(paths, datasets.load_digits().images, strict=False):
        Image.fromarray((pixels * 15.9375).round().astype(np.uint8)).save(path)
    return paths


def probabilities(classifier, paths) -> np.ndarray:
    images = [read_image(path, channels=1, image_size=8) for path in paths]
    return tf.nn.softmax(classifier.logits(np.stack(images))).numpy()


def documented(word, ports, *images) -> str:
    """Returns the one fenced command of the README with a word, on our ports."""
    lines = re.findall(
        r"^```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.M | re.S
    )
    (command,) = [line for line in "".join(lines).splitlines() if re.search(word, line)]
    for port, ours in ports.items():
        command = command.replace(f"localhost:{port}", f"127.0.0.1:{ours}")
    return command.replace("image.png", " ".join(map(shlex.quote, map(str, images))))


def shell(command) -> subprocess.CompletedProcess:
    if not (shutil.which("bash") and shutil.which("curl")):
        pytest.skip("there is no bash or no curl on the PATH")
    python = Path(sys.executable).parent
    return subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def predict(ports, signature, name, value):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(f"127.0.0.1:{ports[8500]}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict(request, timeout=SECONDS).outputs


@pytest.mark.parametrize("word", ["b64", "read_image"])
def test_documented_rest(word, ports, classifier, images):
    image, _ = images
    result = shell(documented(word, ports, image))
    assert result.returncode == 0, result.stderr
    (prediction,) = json.loads(result.stdout)["predictions"]
    (expected,) = probabilities(classifier, [image])
    best = np.argsort(-expected)[:5]
    assert prediction["classes"] == [classifier.class_names[index] for index in best]
    np.testing.assert_allclose(prediction["scores"], expected[best], atol=1e-6)
    np.testing.assert_allclose(prediction["probabilities"], expected, atol=1e-6)
    assert prediction.keys() == {"classes", "scores", "probabilities", "logits"}


def test_documented_grpc(ports, classifier, images):
    result = shell(documented("grpc_client", ports, *images))
    assert result.returncode == 0, result.stderr
    expected = probabilities(classifier, images)
    lines = result.stdout.splitlines()
    for line, path, row in zip(lines, images, expected, strict=True):
        best = np.argsort(-row)[:5]
        shown = (f"{classifier.class_names[index]} {row[index]:.4f}" for index in best)
        assert line == f"{path}: {', '.join(shown)}"


def test_what_is_no_image_is_refused(ports, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("not an image")
    answer = json.loads(shell(documented("b64", ports, text)).stdout)
    assert answer.keys() == {"error"}
    with pytest.raises(grpc.RpcError) as error:
        predict(ports, "encoded", "image_bytes", [text.read_bytes()])
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_signatures_over_grpc(ports, classifier):
    """Every signature takes several images at once."""
    images = exports.random_images(classifier.image_shape, 3)
    encoded = []
    for image in images:
        content = io.BytesIO()
        Image.fromarray(image[..., 0]).save(content, "png")
        encoded.append(content.getvalue())
    for signature, name, value in (
        ("", "image", images),
        ("serving_default", "image", images),
        ("features", "image", images),
        ("encoded", "image_bytes", encoded),
    ):
        outputs = predict(ports, signature, name, value)
        exports.assert_same_logits(
            tf.make_ndarray(outputs["logits"]), classifier.logits(images)
        )


def test_documented_load(ports, images):
    image, _ = images
    command = documented("load.py", ports, image)
    result = shell(f"{command} --requests=7 --clients=3")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["requests"] == 7
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= 1000 * found["seconds"]
    speed = found["requests"] / found["seconds"]
    assert found["requests_per_second"] == pytest.approx(speed, rel=0.1)


def test_load_reports_mistakes(ports, images, tmp_path):
    image, text = images[0], tmp_path / "text.txt"
    text.write_text("not an image")
    command = documented("load.py", ports, image)
    elsewhere = command.replace("127.0.0.1", "example.org")
    assert "give one on localhost" in shell(elsewhere).stderr
    refused = shell(documented("load.py", ports, text)).stderr
    assert refused.startswith("error: 400 ")
    assert refused.count("\n") == 1
    assert "allow more" in shell(f"{command} --seconds=0").stderr


def test_every_runtime_is_measured_on_the_released_model():
    version = "savedmodels/cifar100_resnet20/1"
    result = shell(
        f"python examples/serving/measure.py {version} --rounds 2 --batch_sizes 1 3 "
        "--requests 4 --clients 2"
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    differences = found["probability_difference"]
    assert list(differences) == [
        "tensorflow",
        "onnxruntime",
        "openvino",
        "openvino_default",
    ]
    assert differences["onnxruntime"] < 1e-5
    assert differences["openvino"] < 1e-5
    assert differences["openvino_default"] < 0.05
    rows = found["measurements"]
    assert [(row["round"], row["batch_size"], row["runtime"]) for row in rows] == [
        (number, size, name)
        for number in range(2)
        for size in (1, 3)
        for name in differences
    ]
    for row in rows:
        assert row["requests"] == 4
        speed = row["batch_size"] * row["requests"] / row["seconds"]
        assert row["images_per_second"] == pytest.approx(speed, rel=0.1)
        assert row["p50_ms"] <= row["p99_ms"]
    for median in found["medians"]:
        pair = [
            row["p99_ms"]
            for row in rows
            if all(row[key] == median[key] for key in ("runtime", "batch_size"))
        ]
        assert median["p99_ms"] == pytest.approx(np.mean(pair), abs=0.006)


def test_the_page_says_what_was_measured():
    page = (ROOT / "docs" / "serving.md").read_text()
    found = json.loads((ROOT / "results" / "serving.json").read_text())
    rows = [
        line.strip("| ").split(" | ") for line in page.splitlines() if "| `" in line
    ]
    assert {(runtime.strip("`"), size) for runtime, size, *_ in rows} == {
        (row["runtime"], str(row["batch_size"])) for row in found["medians"]
    }
    for runtime, size, *shown in rows:
        # From the measurements themselves.
        own = [
            [row[key] for key in ("images_per_second", "p50_ms", "p99_ms")]
            for row in found["measurements"]
            if f"`{row['runtime']}` {row['batch_size']}" == f"{runtime} {size}"
        ]
        values = [float(text.replace(",", "")) for text in shown]
        speed, *latencies = np.median(own, axis=0)
        assert values[0] == pytest.approx(speed, abs=0.51)
        assert values[1:] == pytest.approx(latencies, abs=0.06)


def test_a_version_without_onnx_is_one_line(exported):
    *_, version = exported
    result = shell(f"python examples/serving/measure.py {shlex.quote(str(version))}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "give a version that was exported with --formats=" in result.stderr


def test_compose_file_fits_the_rest():
    """Docker was not run."""
    text = (EXAMPLE / "docker-compose.yml").read_text()
    mounts = dict(re.findall(r"^ +- (\.\S+?):(/\S+):ro$", text, re.M))
    files = ("models.config", "batching_parameters.txt", "monitoring.config")
    assert mounts == {
        "../../savedmodels": "/models",
        **{f"./{name}": f"/{name}" for name in files},
    }
    assert {(EXAMPLE / path).exists() for path in mounts} == {True}
    for flag, name in zip(
        ("model_config_file", "batching_parameters_file", "monitoring_config_file"),
        files,
        strict=True,
    ):
        assert f"--{flag}=/{name}\n" in text
    assert "--enable_batching\n" in text


def read_text_proto(name, fields):
    """Parses a file by these fields, {name: type}, of the server's documentation."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto",
        package="documented",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for message, own in fields.items():
        described = file.message_type.add(name=message)
        for number, (field, kind) in enumerate(own.items(), start=1):
            entry = described.field.add(name=field, number=number, label=1)
            if isinstance(kind, str):
                entry.type, entry.type_name = entry.TYPE_MESSAGE, kind
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    outer = pool.FindMessageTypeByName(f"documented.{list(fields)[-1]}")
    message = message_factory.GetMessageClass(outer)()
    return text_format.Parse((EXAMPLE / name).read_text(), message)


def test_batching_and_monitoring_are_what_the_server_reads():
    """After session_bundle_config.proto and monitoring_config.proto of its sources."""
    number = ".google.protobuf.Int64Value"
    keys = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches")
    batching = read_text_proto(
        "batching_parameters.txt",
        {"BatchingParameters": dict.fromkeys([*keys, "num_batch_threads"], number)},
    )
    assert batching.max_batch_size.value == 32
    assert 0 < batching.batch_timeout_micros.value < 10_000
    kinds = descriptor_pb2.FieldDescriptorProto
    monitoring = read_text_proto(
        "monitoring.config",
        {
            "PrometheusConfig": {
                "enable": kinds.TYPE_BOOL,
                "path": kinds.TYPE_STRING,
            },
            "MonitoringConfig": {"prometheus_config": ".documented.PrometheusConfig"},
        },
    )
    assert monitoring.prometheus_config.enable
    path = monitoring.prometheus_config.path
    readme = (EXAMPLE / "README.md").read_text()
    assert f"metrics_path: {path}\n" in readme
    assert f"http://localhost:8501{path}\n" in readme
