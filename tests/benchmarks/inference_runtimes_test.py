"""Formats that --artifact holds, and runtimes that are missing."""

import shutil

import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.benchmarks import inference_runtimes


def artifacts_in(path):
    """The formats that --artifact=path holds."""
    with flagsaver.as_parsed(artifact=str(path)):
        return inference_runtimes.artifacts_from_flags()


def test_an_artifact_is_found_with_its_formats(exported, tmp_path):
    _, answer, directory = exported
    found = artifacts_in(directory)
    assert [each.format for each in found] == ["saved_model", "tflite"]
    for each in found:
        assert each.bytes == answer["formats"][each.format]["bytes"]
        assert each.task == {"image_shape": [8, 8, 1], "batch_size": 1}
    assert [each.batch_size for each in found] == [None, 1]
    assert not any(each.other_batch for each in found)
    (alone,) = artifacts_in(directory / "model.tflite")
    assert alone == found[1]
    # Half of it was taken away.
    half = shutil.copytree(directory, tmp_path / "half")
    (half / "saved_model.pb").unlink()
    assert [each.format for each in artifacts_in(half)] == ["tflite"]
    (half / "model.tflite").write_bytes(b"other")
    with pytest.raises(UserError, match="it is damaged or was replaced"):
        artifacts_in(half)
    with pytest.raises(UserError, match="there is no artifact"):
        artifacts_in(tmp_path / "none")


def test_what_is_missing_is_left_out(exported, monkeypatch, capsys):
    monkeypatch.setitem(inference_runtimes.OPTIONAL, "openvino", ("openvino_no_such",))
    monkeypatch.setitem(inference_runtimes.OPTIONAL, "onnxruntime", ("json", "no_such"))
    assert inference_runtimes.absent_runtimes() == ["openvino", "onnxruntime"]
    assert "onnxruntime is left out: no_such not installed." in capsys.readouterr().err
