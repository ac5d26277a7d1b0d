"""A peer as a .tflite file for phones: of numbers of 32, 16 or 8 bits."""

import collections
import contextlib
import functools
import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from afd_tf.errors import UserError
from afd_tf.models import Peer
from afd_tf.quantization import (
    SMALLEST_ROUNDED_ALONE,
    bias_corrected,
    in_batches,
    normalizing_in_one_operator,
    shifted,
)
from afd_tf.runner import LABELS, MANIFEST, SIGNATURE
from afd_tf.saved_model import Weights

# How numbers are stored → what is said about it in the manifest.
QUANTIZATIONS = {
    "none": "float32 throughout",
    "float16": "weights float16, everything computed in float32",
    "dynamic": "weights int8 (small ones float32), activations quantised as they come",
    "int8": "weights and activations int8, sums int32; outputs dequantised inside, so "
    "that they are float32 in every format",
}
# Those that need training pictures.
CALIBRATED = ("dynamic", "int8")


class Operator(NamedTuple):
    """An operator of a .tflite file.

    Attributes:
      name: of TFLite, e.g. "CONV_2D".
      inputs: types of what it takes, e.g. ("INT8", "INT8", "INT32"); those that it
        leaves out are not there.
      outputs: types of what it gives.
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
    pictures: np.ndarray | None = None,
) -> dict:
    """Writes a TFLite file that takes one picture, as LiteRT.js demands.

    It takes raw pixels, uint8 [1, h, w, c], and gives logits and probabilities,
    float32 [1, classes], in the signature serving_default. The class names and the
    description are inside, in a zip archive behind the model: what TFLite calls
    associated files.

    Args:
      peer: the network.
      description: what goes into the file beside the model; JSON, with "format".
      path: the file.
      quantization: of `QUANTIZATIONS`.
      pictures: uint8 [n, h, w, c], for `CALIBRATED` ones, which are corrected so
        that maps and logits keep their means over them; "int8" takes the range of every
        activation from them as well.

    Returns:
      {"signatures", "quantization", "operators": how many of each there are,
      "batch_normalizations": how many the network has and how many of them are
      "folded" into convolutions}.

    Raises:
      UserError: TFLite has no operator for something in the network.
    """
    convert = functools.partial(_convert, peer, description, quantization, pictures)
    if quantization in CALIBRATED:
        content = _convert_corrected(peer, convert, quantization, pictures)
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
            (LABELS, "".join(f"{n}\n" for n in description["dataset"]["class_names"])),
            (MANIFEST, json.dumps(inside, ensure_ascii=False)),
        ):
            # A ZipInfo of its own has no clock in it: same model, same bytes.
            file.writestr(zipfile.ZipInfo(name), text)
    path.write_bytes(content + archive.getvalue())
    return _describe(peer, content, quantization)


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


def _convert_corrected(peer, convert, quantization, pictures) -> bytes:
    """Returns what `convert` does of the peer in its form for 8 bits.

    What is then left of a mean error of the logits comes off the classifier's bias.
    """
    expected = np.concatenate([peer(each).logits for each in in_batches(pictures)])
    with contextlib.ExitStack() as stack:
        if quantization == "int8":
            stack.enter_context(bias_corrected(peer, pictures))
            stack.enter_context(normalizing_in_one_operator(peer))
        else:
            stack.enter_context(bias_corrected(peer, pictures, SMALLEST_ROUNDED_ALONE))
        error = np.mean(_logits(convert(), pictures) - expected, axis=0)
        stack.enter_context(shifted(peer.classifier.bias, -error))
        return convert()


def _logits(content: bytes, pictures: np.ndarray) -> np.ndarray:
    """Returns what a model says to pictures, float32 [n, classes]."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner(SIGNATURE)
    return np.concatenate(
        [runner(image=each[np.newaxis])["logits"] for each in pictures]
    )


def _convert(peer, description, quantization, pictures) -> bytes:
    """Returns the model alone."""
    is_int8 = quantization == "int8"
    # The converter turns a float input into uint8; a uint8 one would be computed with
    # in float32 first.
    dtype = tf.float32 if is_int8 else tf.uint8
    shape = [1, *description["input"]["shape"][1:]]

    @tf.function(
        input_signature=[tf.TensorSpec(shape, dtype, name="image")], autograph=False
    )
    def serving_default(image):
        if is_int8:
            # Makes the input's scale 1 and its zero point 0, whatever the brightest
            # pixel of the pictures is: what the camera gives is what it takes.
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
            {"image": picture[np.newaxis].astype(np.float32)} for picture in pictures
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


def _describe(peer: Peer, content: bytes, quantization: str) -> dict:
    """Returns what the file itself says: part of the manifest."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    runner = interpreter.get_signature_runner(SIGNATURE)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    numbers = {"type": quantization, "note": QUANTIZATIONS[quantization]}
    if quantization == "int8":
        scale, zero_point = inputs["image"]["quantization"]
        numbers["input"] = {"scale": float(scale), "zero_point": int(zero_point)}
    counts = collections.Counter(each.name for each in operators(content))
    normalizations = sum(each.name == "moving_variance" for each in peer.variables)
    # One that follows no convolution stays as a multiplication and an addition; one
    # multiplication more is that of the pixels, except in int8.
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
