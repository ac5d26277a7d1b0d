"""OpenVINO's files: what is in them, and others."""

import json
import shutil

import numpy as np
import pytest

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.manifest import FORMATS, check_packages
from afd_tf.base.errors import UserError
from tests import exports

openvino = pytest.importorskip("openvino")


def test_openvino_reads_what_is_written(deployed):
    peer, answer, directory = deployed
    entry = answer["formats"]["openvino"]
    assert entry["files"] == ["model.bin", "model.xml"]
    model = openvino.Core().read_model(directory / "model.xml")
    (image,) = model.inputs
    assert image.get_names() >= {"image"}
    assert image.element_type == openvino.Type.u8
    assert image.partial_shape.to_string() == "[?,8,8,1]"
    description = json.loads(model.get_rt_info(["afd_tf", "description"]).astype(str))
    assert description["format"] == "openvino"
    assert "flags" not in description
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    for count in (1, 5):
        images = exports.random_images((8, 8, 1), count)
        expected = exports.logits_of(peer, images)
        outputs = compiled([images])
        exports.assert_same_logits(outputs["logits"], expected)
        powers = np.exp(np.float64(expected))
        np.testing.assert_allclose(
            outputs["probabilities"],
            powers / powers.sum(axis=-1, keepdims=True),
            atol=1e-5,
        )


def test_int8_is_made_with_the_calibration_images_of_tflite(deployed):
    _, answer, directory = deployed
    entry = answer["formats"]["openvino_int8"]
    assert entry["files"] == ["model_int8.bin", "model_int8.xml"]
    assert entry["quantization"]["type"] == "int8"
    assert entry["calibration"] == answer["formats"]["tflite_int8"]["calibration"]
    model = openvino.Core().read_model(directory / "model_int8.xml")
    assert model.input(0).partial_shape.to_string() == "[?,8,8,1]"
    kernels = [
        each
        for each in model.get_ops()
        if each.get_type_name() == "Constant" and len(each.get_output_shape(0)) == 4
    ]
    types = {each.get_element_type() for each in kernels if each.data.size > 100}
    assert types == {openvino.Type.i8}
    sizes = [
        (directory / name).stat().st_size for name in ("model_int8.bin", "model.bin")
    ]
    assert sizes[0] < sizes[1] / 3
    quantized = answer["formats"]["tflite_int8"]["accuracy"]
    assert entry["accuracy"] == pytest.approx(quantized, abs=0.01)


def test_without_nncf_the_extra_is_named(monkeypatch):
    lacking = FORMATS["openvino_int8"]._replace(packages={"no_such_module": "nncf"})
    monkeypatch.setitem(FORMATS, "openvino_int8", lacking)
    with pytest.raises(UserError) as error:
        check_packages(["openvino_int8"])
    assert str(error.value) == (
        "--formats=openvino_int8 needs the package nncf, which is not installed: `pip "
        "install -r requirements-openvino.txt` (the extra openvino of afd_tf), or "
        "leave openvino_int8 out."
    )


def test_other_files_are_refused_in_one_line(deployed, tmp_path):
    alone = tmp_path / "alone.xml"
    shutil.copy(deployed[2] / "model.xml", alone)
    parameter = openvino.opset13.parameter([1], np.float32)
    foreign = openvino.Model([openvino.opset13.relu(parameter)], [parameter])
    openvino.save_model(foreign, tmp_path / "foreign.xml")
    (tmp_path / "text.xml").write_text("<net>")
    for name in ("alone", "foreign", "text"):
        path = tmp_path / f"{name}.xml"
        with pytest.raises(UserError, match=r"damaged, or is not a \.xml") as error:
            load_classifier(path)
        assert "\n" not in str(error.value), name
        assert str(path) in str(error.value), name
