"""ONNX files: what is in them, and others."""

import json

import numpy as np
import pytest

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.base.errors import UserError
from tests import exports, tiny

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def test_the_file_says_itself_what_it_is(deployed):
    peer, answer, directory = deployed
    path = directory / "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model)
    (opset,) = [each.version for each in model.opset_import if not each.domain]
    assert opset == answer["formats"]["onnx"]["opset"] == 17
    properties = {each.key: each.value for each in model.metadata_props}
    assert properties["labels.txt"] == (directory / "labels.txt").read_text()
    description = json.loads(properties["afd_tf"])
    assert description["format"] == "onnx"
    assert "flags" not in description
    session = onnxruntime.InferenceSession(path)
    (image,) = session.get_inputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    assert image.shape[1:] == [8, 8, 1]
    assert not isinstance(image.shape[0], int)
    for count in (1, 5):
        images = exports.random_images((8, 8, 1), count)
        logits, probabilities = session.run(
            ["logits", "probabilities"], {"image": images}
        )
        expected = exports.logits_of(peer, images)
        exports.assert_same_logits(logits, expected)
        powers = np.exp(np.float64(expected))
        np.testing.assert_allclose(
            probabilities, powers / powers.sum(axis=-1, keepdims=True), atol=1e-5
        )


def test_gelu_is_written(tmp_path):
    info = tiny.info((16, 16, 3))
    peer = exports.random_peer("python:tests.models.foreign_models:cropped", info)
    _, directory = exports.export(peer, exports.OneImage(info), tmp_path, ["onnx"])
    path = directory / "model.onnx"
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Erf" in kinds and "Erfc" not in kinds
    images = exports.random_images((16, 16, 3), 5)
    exports.assert_same_logits(
        load_classifier(path).logits(images), exports.logits_of(peer, images)
    )


def test_other_files_are_refused_in_one_line(deployed, tmp_path):
    whole = (deployed[2] / "model.onnx").read_bytes()
    node = onnx.helper.make_node("Identity", ["image"], ["logits"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [value("image", 1, [1])], [value("logits", 1, [1])]
    )
    foreign = onnx.helper.make_model(graph, ir_version=8)
    # An operator that no runtime has.
    node.op_type = "Execute"
    strange = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", graph.input, graph.output), ir_version=8
    )
    for name, content in (
        ("foreign", foreign.SerializeToString()),
        ("strange", strange.SerializeToString()),
        ("truncated", whole[: len(whole) // 2]),
        ("text", b"no model\n" * 100),
        ("empty", b""),
    ):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged, or is not a \.onnx") as error:
            load_classifier(path)
        assert "\n" not in str(error.value), name
        assert str(path) in str(error.value), name
