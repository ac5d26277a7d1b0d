"""A peer as an .onnx file: written with tf2onnx, run with ONNX Runtime."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from afd_tf.artifacts.manifest import LABELS, SIGNATURE, labels_text, read_bytes
from afd_tf.artifacts.networks import logits_of
from afd_tf.base.errors import UserError
from afd_tf.base.json_text import json_text

OPSET = 17
# The key of the description among the file's own properties.
_DESCRIPTION = "afd_tf"
_OUTPUTS = ("probabilities", "logits")


def write(peer, info, description: Mapping[str, Any], path: Path) -> dict:
    """Writes an ONNX file that takes any number of images.

    It takes "image", uint8 [B, h, w, c], raw pixels, and gives "probabilities" and
    "logits", float32 [B, classes]. Class names and description are among its metadata
    properties.

    Args:
      peer: the network.
      info: the data set that it was trained on.
      description: JSON values that go into the file: those of the manifest, with
        "format".
      path: the file.

    Returns:
      {"signatures", "quantization", "opset"}.

    Raises:
      UserError: tf2onnx cannot convert it.
    """
    # By name, so that no tool takes an optional package for a requirement.
    onnx = importlib.import_module("onnx")
    from afd_tf.artifacts.plain_saved_model import plain_saved_model, signature_entry

    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model.onnx"
        with plain_saved_model(peer, info.image_shape) as saved_model:
            convert(saved_model, converted)
        content = _without_erfc(onnx, onnx.load(converted)).SerializeToString()
    inside = {
        **description,
        "model": {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    }
    # Messages of protocol buffers are joined by appending one to the other: the first
    # bytes stay as they are, and can be checked.
    properties = onnx.ModelProto()
    for key, value in (
        (_DESCRIPTION, json_text(inside)),
        (LABELS, labels_text(info.class_names)),
    ):
        properties.metadata_props.add(key=key, value=value)
    path.write_bytes(content + properties.SerializeToString())
    return {
        "signatures": {SIGNATURE: signature_entry(info)},
        "quantization": {"type": "none"},
        "opset": OPSET,
    }


def convert(saved_model: Path, path: Path) -> None:
    """Converts the signature serving_default of a SavedModel into an ONNX file.

    Raises:
      UserError: it cannot be converted.
    """
    # As a program of its own: imported, it changes TensorFlow's settings. Its GPU is
    # not needed, and may be taken.
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tf2onnx.convert", f"--opset={OPSET}"),
            *(f"--saved-model={saved_model}", f"--output={path}"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        check=False,
    )
    if result.returncode or not path.is_file():
        *_, last = ["no message", *result.stderr.strip().splitlines()]
        raise UserError(f"tf2onnx cannot convert {saved_model}: {last}")


def _without_erfc(onnx: Any, model: Any) -> Any:
    """Puts `1 - Erf` in the place of Erfc (GELU's), which tf2onnx leaves as it is."""
    helper = onnx.helper
    nodes = list(model.graph.node)
    if not any(node.op_type == "Erfc" for node in nodes):
        return model
    model.graph.initializer.append(helper.make_tensor("one", 1, [], [1.0]))
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Erfc":
            model.graph.node.append(node)
            continue
        erf = f"{node.output[0]}_erf"
        model.graph.node.append(helper.make_node("Erf", list(node.input), [erf]))
        model.graph.node.append(helper.make_node("Sub", ["one", erf], node.output))
    return model


def read(path: Path) -> tuple[dict, Callable[[np.ndarray], np.ndarray]]:
    """Returns the description in a file that `write` wrote, and what runs it.

    Raises:
      ValueError: it is another program's, or damaged.
      Exception: ONNX Runtime cannot read it; its classes have no common base.
    """
    onnxruntime = importlib.import_module("onnxruntime")
    content = read_bytes(path)
    options = onnxruntime.SessionOptions()
    # Only errors: it warns of what the conversion left over.
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )
    properties = session.get_modelmeta().custom_metadata_map
    if _DESCRIPTION not in properties:
        raise ValueError("it has no class names and no description of afd_tf")
    description = json.loads(properties[_DESCRIPTION])
    model = description["model"]
    if hashlib.sha256(content[: model["bytes"]]).hexdigest() != model["sha256"]:
        raise ValueError("its checksum is another")
    names = [each.name for each in session.get_outputs()]
    wanted = [name for name in _OUTPUTS if name in names]

    def logits(images: np.ndarray) -> np.ndarray:
        outputs = session.run(wanted, {"image": images})
        return logits_of(dict(zip(wanted, outputs, strict=True)))

    return description, logits
