"""A peer as a .tflite file for phones, in 32, 16 or 8 bits: written and run."""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from afd_tf.artifacts.manifest import LABELS, MANIFEST, SIGNATURE, labels_text
from afd_tf.artifacts.quantization import (
    MIN_DYNAMIC_KERNEL,
    bias_corrected,
    in_batches,
    normalizing_in_one_operator,
    shifted,
)
from afd_tf.artifacts.saved_model import Weights
from afd_tf.base.errors import UserError
from afd_tf.base.json_text import json_text
from afd_tf.models import Peer

# How numbers are stored → the note about it in the manifest.
QUANTIZATIONS = {
    "none": "float32 throughout",
    "float16": "weights float16, everything computed in float32",
    "dynamic": "weights int8 (small ones float32), activations quantized as they come",
    "int8": "weights and activations int8, sums int32; outputs dequantized inside, so "
    "that they are float32 in every format",
}
# The quantizations that need training images.
CALIBRATED_QUANTIZATIONS = ("dynamic", "int8")

# Each interpreter has its own copy of the weights.
_MAX_INTERPRETERS = 8


class Operator(NamedTuple):
    """An operator of a .tflite file.

    Attributes:
      name: TFLite's name, e.g. "CONV_2D".
      inputs: the types of its inputs, e.g. ("INT8", "INT8", "INT32"), without the
        optional inputs that it leaves out.
      outputs: the types of its outputs.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write(
    peer: Peer,
    description: Mapping[str, Any],
    path: Path,
    *,
    quantization: str,
    images: np.ndarray | None = None,
) -> dict:
    """Writes a TFLite file that takes one image, as LiteRT.js demands.

    It takes raw pixels, uint8 [1, h, w, c], and gives logits and probabilities,
    float32 [1, classes], in the signature serving_default. The class names and the
    description are inside, in a zip archive behind the model: what TFLite calls
    associated files.

    Args:
      peer: the network.
      description: JSON values that go into the file beside the model: those of the
        manifest, with "format".
      path: the file.
      quantization: a key of `QUANTIZATIONS`.
      images: uint8 [n, h, w, c], raw pixels, for `CALIBRATED_QUANTIZATIONS`: maps and
        logits are corrected to keep their means over them; "int8" also takes the
        range of every activation from them.

    Returns:
      {"signatures", "quantization", "operators": the number of each,
      "batch_normalizations": {"all": number in the network, "folded": number of those
      that are folded into convolutions}}.

    Raises:
      UserError: TFLite has no operator for something in the network.
    """
    convert = functools.partial(_convert, peer, description, quantization, images)
    if quantization in CALIBRATED_QUANTIZATIONS:
        content = _convert_corrected(peer, convert, quantization, images)
    else:
        content = convert()
    archive = io.BytesIO()
    inside = {
        **description,
        "model": {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    }
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in (
            (LABELS, labels_text(description["dataset"]["class_names"])),
            (MANIFEST, json_text(inside)),
        ):
            # A ZipInfo without a date: the same model always gives the same bytes.
            file.writestr(zipfile.ZipInfo(name), text)
    path.write_bytes(content + archive.getvalue())
    return _file_entry(peer, content, quantization)


def operators(content: bytes) -> list[Operator]:
    """Returns the operators of a .tflite file, in the order in which they run."""
    # Here, because it is slow to import.
    from ai_edge_litert import schema_py_generated as schema

    names = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if isinstance(code, int)
    }
    types = {
        code: name
        for name, code in vars(schema.TensorType).items()
        if isinstance(code, int)
    }
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)

    def types_of(tensors) -> tuple[str, ...]:
        # -1 is an input that is left out.
        return tuple(types[graph.Tensors(int(n)).Type()] for n in tensors if n >= 0)

    return [
        Operator(
            names[model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()],
            types_of(operator.InputsAsNumpy()),
            types_of(operator.OutputsAsNumpy()),
        )
        for operator in map(graph.Operators, range(graph.OperatorsLength()))
    ]


class Interpreters:
    """Interpreters of one .tflite file, which run one image on each processor.

    Args:
      content: of the file.

    Raises:
      ValueError: it is no TFLite model, or lacks our signature.
    """

    def __init__(self, content: bytes):
        self._content = content
        self._signatures = [self._new_signature()]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [B, classes] for uint8 [B, h, w, c], B of at least 1."""
        workers = min(os.cpu_count() or 1, _MAX_INTERPRETERS, len(images))
        while len(self._signatures) < workers:
            self._signatures.append(self._new_signature())

        def run(signature, part):
            return [signature(image=image[np.newaxis])["logits"] for image in part]

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            parts = pool.map(run, self._signatures, np.array_split(images, workers))
            return np.concatenate([logits for part in parts for logits in part])

    def _new_signature(self):
        # Imported here, because most users of this module run no .tflite file.
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self._content, num_threads=1)
        return interpreter.get_signature_runner(SIGNATURE)


def _convert_corrected(peer, convert, quantization, images) -> bytes:
    """Calls `convert` while the peer is in its form for 8 bits.

    The mean error of the logits that remains is taken off the classifier's bias.
    """
    expected = np.concatenate([peer(each).logits for each in in_batches(images)])
    with contextlib.ExitStack() as stack:
        if quantization == "int8":
            stack.enter_context(bias_corrected(peer, images))
            stack.enter_context(normalizing_in_one_operator(peer))
        else:
            stack.enter_context(bias_corrected(peer, images, MIN_DYNAMIC_KERNEL))
        error = np.mean(_logits(convert(), images) - expected, axis=0)
        stack.enter_context(shifted(peer.classifier.bias, -error))
        return convert()


def _logits(content: bytes, images: np.ndarray) -> np.ndarray:
    """Returns the model's logits, float32 [n, classes]."""
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(model_content=content).get_signature_runner(SIGNATURE)
    return np.concatenate(
        [signature(image=each[np.newaxis])["logits"] for each in images]
    )


def _convert(peer, description, quantization, images) -> bytes:
    """Returns the content of a .tflite file without class names and description."""
    is_int8 = quantization == "int8"
    # The converter turns a float input into uint8; with a uint8 input, the first
    # operators would compute in float32.
    dtype = tf.float32 if is_int8 else tf.uint8
    shape = [1, *description["input"]["shape"][1:]]

    @tf.function(
        input_signature=[tf.TensorSpec(shape, dtype, name="image")], autograph=False
    )
    def serving_default(image):
        if is_int8:
            # Makes the input's scale 1 and its zero point 0, whatever the brightest
            # pixel of the images is, so that it takes the camera's bytes as they are.
            image = tf.quantization.fake_quant_with_min_max_args(image, 0, 255)
        logits = peer(image, training=False).logits
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [serving_default.get_concrete_function()], Weights(peer)
    )
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if is_int8:
        converter.representative_dataset = lambda: (
            {"image": each[np.newaxis].astype(np.float32)} for each in images
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    try:
        with warnings.catch_warnings():
            # The converter's calibration uses TensorFlow's own, deprecated interpreter.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
            return converter.convert()
    except Exception as error:  # The converter's own class is not public.
        lacking = re.findall(r"^(?:Custom|Flex|TF Select) ops: (.*)$", str(error), re.M)
        if not lacking:
            raise
        raise UserError(
            f"{peer.name} cannot be written as {description['format']}: TFLite has no "
            f"operator for {', '.join(lacking)}. Leave {description['format']} out of "
            "--formats."
        ) from error


def _file_entry(peer: Peer, content: bytes, quantization: str) -> dict:
    """Returns the file's entry in the manifest, as far as it can be read from it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    signature = interpreter.get_signature_runner(SIGNATURE)
    inputs, outputs = signature.get_input_details(), signature.get_output_details()
    numbers = {"type": quantization, "note": QUANTIZATIONS[quantization]}
    if quantization == "int8":
        scale, zero_point = inputs["image"]["quantization"]
        numbers["input"] = {"scale": float(scale), "zero_point": int(zero_point)}
    counts = collections.Counter(each.name for each in operators(content))
    normalizations = sum(each.name == "moving_variance" for each in peer.variables)
    # A batch normalization that follows no convolution stays as a multiplication and
    # an addition. One more multiplication normalizes the pixels, except in int8.
    folded = normalizations - (counts["MUL"] - (quantization != "int8"))
    return {
        "signatures": {
            SIGNATURE: {
                side: {
                    name: {
                        "dtype": np.dtype(each["dtype"]).name,
                        "shape": each["shape_signature"].tolist(),
                    }
                    for name, each in details.items()
                }
                for side, details in (("inputs", inputs), ("outputs", outputs))
            }
        },
        "quantization": numbers,
        "operators": dict(counts),
        "batch_normalizations": {"all": normalizations, "folded": folded},
    }
