"""Operators and number types of .tflite files, and their entries in the manifest."""

import collections
import json
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from afd_tf.artifacts import tflite
from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.manifest import FORMATS
from afd_tf.artifacts.networks import logits_of
from tests import exports, tiny

TFLITE = [name for name, each in FORMATS.items() if each.kind == "tflite"]


@pytest.mark.parametrize("name", TFLITE)
def test_interface_is_the_same_for_every_format(deployed, name):
    _, answer, directory = deployed
    entry = answer["formats"][name]
    interpreter = Interpreter(str(directory / entry["path"]))
    signature = interpreter.get_signature_runner("serving_default")
    details = signature.get_input_details()
    assert details.keys() == {"image"}
    assert details["image"]["dtype"] is np.uint8
    assert list(details["image"]["shape_signature"]) == [1, 8, 8, 1]
    outputs = signature.get_output_details()
    assert outputs.keys() == {"probabilities"}
    for each in outputs.values():
        assert each["dtype"] is np.float32
        assert list(each["shape_signature"]) == [1, 10]
    numbers = {"dtype": "float32", "shape": [1, 10]}
    assert entry["signatures"] == {
        "serving_default": {
            "inputs": {"image": {"dtype": "uint8", "shape": [1, 8, 8, 1]}},
            "outputs": {"probabilities": numbers},
        }
    }


@pytest.mark.parametrize("name", TFLITE)
def test_operators_are_those_that_run(deployed, name):
    _, answer, directory = deployed
    path = directory / answer["formats"][name]["path"]
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    expected = [each["op_name"] for each in interpreter._get_ops_details()]
    assert [each.name for each in tflite.operators(path.read_bytes())] == expected
    assert answer["formats"][name]["operators"] == collections.Counter(expected)


def test_int8_is_integer_from_the_pixels_to_the_answers(deployed):
    _, answer, directory = deployed
    entry = answer["formats"]["tflite_int8"]
    operators = tflite.operators((directory / entry["path"]).read_bytes())
    # Only the probabilities are no multiples of 1/256.
    *operators, dequantize, softmax = operators
    assert dequantize == ("DEQUANTIZE", ("INT8",), ("FLOAT32",))
    assert softmax == ("SOFTMAX", ("FLOAT32",), ("FLOAT32",))
    for operator in operators:
        assert not any("FLOAT" in kind for kind in operator.inputs), operator
        if operator.name in ("CONV_2D", "FULLY_CONNECTED"):
            assert operator.inputs == ("INT8", "INT8", "INT32")
            assert operator.outputs == ("INT8",)
        else:
            assert set(operator.outputs) == {"INT8"}
    assert operators[0] == ("QUANTIZE", ("UINT8",), ("INT8",))
    # A pixel is its own quantized value.
    assert entry["quantization"]["input"] == {"scale": 1.0, "zero_point": 0}
    assert entry["calibration"]["count"] == 500
    assert entry["calibration"]["classes"] == 10


def test_weights_are_as_small_as_they_are_said_to_be(deployed):
    _, answer, directory = deployed
    weights = {}
    for name in TFLITE:
        path = directory / answer["formats"][name]["path"]
        kinds = {
            operator.inputs[1]
            for operator in tflite.operators(path.read_bytes())
            if operator.name == "CONV_2D"
        }
        weights[name] = kinds
    assert weights["tflite"] == {"FLOAT32"}
    # Behind a DEQUANTIZE each, that XNNPACK and GPUs take away.
    assert answer["formats"]["tflite_fp16"]["operators"]["DEQUANTIZE"] > 9
    assert weights["tflite_dynamic"] == {"FLOAT32", "INT8"}
    assert weights["tflite_int8"] == {"INT8"}


@pytest.mark.parametrize("name", TFLITE)
def test_the_file_says_itself_what_it_is(deployed, name):
    _, answer, directory = deployed
    with zipfile.ZipFile(directory / answer["formats"][name]["path"]) as archive:
        assert archive.read("labels.txt") == (directory / "labels.txt").read_bytes()
        inside = json.loads(archive.read("manifest.json"))
    assert inside["format"] == name
    assert "flags" not in inside


# Of a deep network, the operators in their int8 form are enough: models_test.py
# converts every peer in float32; the other formats differ in how kernels are stored.
UNLIKE = ("tflite_int8",)


# Batch normalizations: those that follow a convolution are folded into it.
@pytest.mark.parametrize(
    ("name", "size", "normalizations", "formats"),
    [
        ("wrn_10_1", 8, {"all": 7, "folded": 3}, TFLITE),
        ("shufflenet_v2_50", 32, {"all": 56, "folded": 56}, UNLIKE),
    ],
)
def test_peers_convert_to_builtin_operators(
    name, size, normalizations, formats, tmp_path
):
    info = tiny.info((size, size, 3))
    peer = exports.random_peer(name, info)
    answer, directory = exports.export(
        peer,
        exports.SomeImages(info),
        tmp_path,
        formats=formats,
        max_accuracy_drop=1.0,
    )
    for kind, entry in answer["formats"].items():
        assert entry["batch_normalizations"] == normalizations, kind
        assert not any("CUSTOM" in operator for operator in entry["operators"])
        assert np.isfinite(entry["probability_difference"])
    int8 = tflite.operators((directory / "model_int8.tflite").read_bytes())
    for operator in int8:
        if "CONV_2D" in operator.name:
            assert operator.inputs == ("INT8", "INT8", "INT32")


def test_openvino_runs_what_is_exported(deployed):
    openvino = pytest.importorskip("openvino")
    peer, answer, directory = deployed
    # A .tflite file takes one at a time.
    images = np.split(exports.random_images((8, 8, 1), 16), 16)
    expected = np.concatenate([exports.logits_of(peer, image) for image in images])
    for name in ("saved_model", "tflite", "tflite_int8"):
        entry = answer["formats"][name]
        model = openvino.convert_model(directory / entry["path"])
        # On other processors, the default may be bfloat16.
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        # In a .tflite file it does not see the signature's names.
        output = "probabilities" if name == "saved_model" else 0
        actual = np.concatenate([compiled([image])[output] for image in images])
        actual = logits_of({"probabilities": actual})
        if name == "tflite_int8":
            signature = load_classifier(directory / entry["path"])
            expected = np.concatenate([signature.logits(image) for image in images])
            # By CPU it rounds in other places: a logit may be some units off.
            largest = np.abs(expected).max()
            assert np.abs(actual - expected).mean() < 0.02 * largest
        else:
            exports.assert_same_scores(actual, expected)


def test_onnx_runtime_runs_the_saved_model(deployed, tmp_path):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    peer, _, directory = deployed
    images = exports.random_images((8, 8, 1), 3)
    path = tmp_path / "model.onnx"
    exports.to_onnx(directory, path)
    session = onnxruntime.InferenceSession(path)
    logits, classes = session.run(["logits", "classes"], {"image": images})
    expected = exports.logits_of(peer, images)
    exports.assert_same_logits(logits, expected)
    np.testing.assert_array_equal(np.int64(classes[:, 0]), expected.argmax(axis=-1))
