"""A peer in OpenVINO's intermediate representation: a .xml file and a .bin file."""

import contextlib
import hashlib
import importlib
import io
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from afd_tf.artifacts.manifest import SIGNATURE
from afd_tf.base.json_text import json_text

# Where the description is among the runtime's information about the model.
_DESCRIPTION = ["afd_tf", "description"]
# On some processors the default is bfloat16.
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
# Calibration images in a call: all at once would take the memory of all their maps.
_CALIBRATION_BATCH = 10


def write(
    peer,
    info,
    description: Mapping[str, Any],
    path: Path,
    *,
    images: np.ndarray | None = None,
    converted: Path | None = None,
) -> dict:
    """Writes a model that takes any number of images.

    It takes "image", uint8 [B, h, w, c], raw pixels, and gives "probabilities" and
    "logits", float32 [B, classes].

    Args:
      peer: the network.
      info: the data set that it was trained on.
      description: JSON values that go into the file: those of the manifest, with
        "format".
      path: the .xml file; the .bin file with the weights is beside it.
      images: uint8 [n, h, w, c], raw training pixels with which NNCF quantizes weights
        and activations to int8; None leaves both in float32.
      converted: a file of the same peer in float32, where there is one: it saves the
        conversion.

    Returns:
      {"signatures", "quantization"}.
    """
    # By name, so that no tool takes an optional package for a requirement.
    openvino = importlib.import_module("openvino")
    from afd_tf.artifacts.plain_saved_model import plain_saved_model, signature_entry

    if converted is not None:
        model = openvino.Core().read_model(converted)
    else:
        with plain_saved_model(peer, info.image_shape) as saved_model:
            model = openvino.convert_model(saved_model)
    quantization = {"type": "none"}
    if images is not None:
        model, quantization = _quantized(model, images)
    openvino.save_model(model, path, compress_to_fp16=False)
    weights = path.with_suffix(".bin").read_bytes()
    inside = {
        **description,
        "model": {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()},
    }
    model.set_rt_info(json_text(inside), _DESCRIPTION)
    # The same weights again, now with the checksum of theirs beside them.
    openvino.save_model(model, path, compress_to_fp16=False)
    return {
        "signatures": {SIGNATURE: signature_entry(info)},
        "quantization": quantization,
    }


def _quantized(model, images: np.ndarray) -> tuple[Any, dict]:
    """Returns the model in int8, and what the manifest says of that.

    The range of every activation, and the shift that rounded weights cause, are
    measured on the images. Weights are symmetric around zero, activations are not.

    Args:
      model: of OpenVINO, for any number of images.
      images: uint8 [n, h, w, c].
    """
    # Otherwise it reports over the network that it was used.
    os.environ.setdefault("NNCF_CI", "1")
    nncf = importlib.import_module("nncf")
    nncf.set_log_level(logging.ERROR)
    batches = [
        images[start : start + _CALIBRATION_BATCH]
        for start in range(0, len(images), _CALIBRATION_BATCH)
    ]
    # Standard output is for programs, and it draws bars there.
    with contextlib.redirect_stdout(io.StringIO()):
        quantized = nncf.quantize(
            model,
            nncf.Dataset(batches),
            preset=nncf.QuantizationPreset.MIXED,
            # Layer by layer, each on what the corrected ones before it give.
            fast_bias_correction=False,
            subset_size=len(batches),
        )
    return quantized, {
        "type": "int8",
        "note": "weights of convolutions and of the classifier, and what enters them, "
        "int8, quantized by NNCF; all else float32",
        "nncf": nncf.__version__,
    }


def read(path: Path) -> tuple[dict, Callable[[np.ndarray], np.ndarray]]:
    """Returns the description in a file that `write` wrote, and what runs it.

    Raises:
      ValueError: it is another program's, or damaged.
      RuntimeError: OpenVINO cannot read it.
    """
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    model = core.read_model(path)
    if not model.has_rt_info(_DESCRIPTION):
        raise ValueError("it has no class names and no description of afd_tf")
    description = json.loads(model.get_rt_info(_DESCRIPTION).astype(str))
    weights = path.with_suffix(".bin").read_bytes()
    if hashlib.sha256(weights).hexdigest() != description["model"]["sha256"]:
        raise ValueError(f"{path.with_suffix('.bin').name} is another file")
    compiled = core.compile_model(model, "CPU", _SETTINGS)

    def logits(images: np.ndarray) -> np.ndarray:
        return compiled([images])["logits"]

    return description, logits
