"""A peer as a .tflite file for phones, in 32, 16 or 8 bits."""

import collections
import contextlib
import functools
import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize

from afd_tf.artifacts.activation_ranges import with_chosen_ranges
from afd_tf.artifacts.interpreters import Interpreters
from afd_tf.artifacts.manifest import LABELS, MANIFEST, SIGNATURE, labels_text
from afd_tf.artifacts.quantization import (
    MIN_DYNAMIC_KERNEL,
    bias_corrected,
    in_batches,
    normalizing_in_one_operator,
    shifted,
)
from afd_tf.artifacts.saved_model import Weights
from afd_tf.artifacts.tflite_metadata import METADATA, metadata
from afd_tf.artifacts.tflite_model import packed, unpacked
from afd_tf.base.errors import UserError
from afd_tf.base.json_text import json_text
from afd_tf.models import Peer

# How numbers are stored → the note about it in the manifest.
QUANTIZATIONS = {
    "none": "float32 throughout",
    "float16": "weights float16, everything computed in float32",
    "dynamic": "weights int8 (small ones float32), activations quantized as they come",
    "int8": "weights and activations int8, sums int32; logits dequantized inside, so "
    "that probabilities are float32, and as fine, in every format",
}
# The quantizations that need training images.
CALIBRATED_QUANTIZATIONS = ("dynamic", "int8")

# The digits of the network's checksum that are its version.
_VERSION_DIGITS = 12


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
    batch_size: int = 1,
    with_logits: bool = False,
) -> dict:
    """Writes a TFLite file that takes a fixed number of images, as LiteRT.js demands.

    It takes raw pixels, uint8 [b, h, w, c], and gives probabilities, float32
    [b, classes], in the signature serving_default. The class names and the description
    are inside, in a zip archive behind the model: what TFLite calls associated files.
    What clients such as MediaPipe read of them is in `tflite_metadata`; they take files
    for one image, and show a head for each output.

    Args:
      peer: the network.
      description: JSON values that go into the file beside the model: those of the
        manifest, with "format".
      path: the file.
      quantization: a key of `QUANTIZATIONS`.
      images: uint8 [n, h, w, c], raw pixels, for `CALIBRATED_QUANTIZATIONS`: maps and
        logits are corrected to keep their means over them; "int8" also takes the
        range of every activation from them.
      batch_size: b.
      with_logits: whether logits, float32 [b, classes], are a second output.

    Returns:
      {"signatures", "quantization", "operators": the number of each,
      "batch_normalizations": {"all": number in the network, "folded": number of those
      that are folded into convolutions}}.

    Raises:
      UserError: TFLite has no operator for something in the network.
    """
    convert = functools.partial(
        _convert, peer, description, quantization, images, batch_size
    )
    if quantization in CALIBRATED_QUANTIZATIONS:
        content = _convert_corrected(peer, convert, quantization, images)
    else:
        content = convert()
    content = _complete(content, description, with_logits)
    inside = {
        **description,
        "model": {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    }
    whole = io.BytesIO(content)
    # Appended: places in the archive count from the beginning of the file.
    with zipfile.ZipFile(whole, "a") as file:
        for name, text in (
            (LABELS, labels_text(description["dataset"]["class_names"])),
            (MANIFEST, json_text(inside)),
        ):
            # A ZipInfo without a date: the same model always gives the same bytes. Not
            # compressed, as clients read it in place.
            file.writestr(zipfile.ZipInfo(name), text)
    path.write_bytes(whole.getvalue())
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


def _convert_corrected(peer, convert, quantization, images) -> bytes:
    """Calls `convert` while the peer is in its form for 8 bits.

    The error of the logits that remains is taken off the classifier's bias: its median,
    as an image on which the network runs away has errors of another size.
    """
    expected = np.concatenate([peer(each).logits for each in in_batches(images)])
    with contextlib.ExitStack() as stack:
        if quantization == "int8":
            stack.enter_context(bias_corrected(peer, images))
            stack.enter_context(normalizing_in_one_operator(peer))
        else:
            stack.enter_context(bias_corrected(peer, images, MIN_DYNAMIC_KERNEL))
        error = np.median(Interpreters(convert()).logits(images) - expected, axis=0)
        stack.enter_context(shifted(peer.classifier.bias, -error))
        return convert()


def _convert(peer, description, quantization, images, batch_size) -> bytes:
    """Returns a .tflite file that gives logits, without metadata and description."""
    is_int8 = quantization == "int8"
    # The converter turns a float input into uint8; with a uint8 input, the first
    # operators would compute in float32.
    dtype = tf.float32 if is_int8 else tf.uint8
    shape = [batch_size, *description["input"]["shape"][1:]]

    @tf.function(
        input_signature=[tf.TensorSpec(shape, dtype, name="image")], autograph=False
    )
    def serving_default(image):
        if is_int8:
            # Makes the input's scale 1 and its zero point 0, whatever the brightest
            # pixel of the images is, so that it takes the camera's bytes as they are.
            image = tf.quantization.fake_quant_with_min_max_args(image, 0, 255)
        return {"logits": peer(image, training=False).logits}

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [serving_default.get_concrete_function()], Weights(peer)
    )
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if is_int8:
        batches = list(_full_batches(images, batch_size))
        first = batches[0].astype(np.float32)
        # Of one batch, as all these ranges but the input's are replaced.
        converter.representative_dataset = lambda: ({"image": first},)
        converter._experimental_calibrate_only = True
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    try:
        with warnings.catch_warnings():
            # The converter's calibration uses TensorFlow's own, deprecated interpreter.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
            content = converter.convert()
    except Exception as error:  # The converter's own class is not public.
        lacking = re.findall(r"^(?:Custom|Flex|TF Select) ops: (.*)$", str(error), re.M)
        if not lacking:
            raise
        raise UserError(
            f"{peer.name} cannot be written as {description['format']}: TFLite has no "
            f"operator for {', '.join(lacking)}. Leave {description['format']} out of "
            "--formats."
        ) from error
    if is_int8:
        content = with_chosen_ranges(content, batches)
        content = mlir_quantize(content, input_data_type=tf.uint8)
    return content


def _full_batches(images: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yields all images, the first ones again where the last batch is not full."""
    for start in range(0, len(images), batch_size):
        yield images[np.arange(start, start + batch_size) % len(images)]


def _complete(
    content: bytes, description: Mapping[str, Any], with_logits: bool
) -> bytes:
    """Returns a file with probabilities and metadata for one that gives logits.

    The softmax is appended here and not converted: in an integer network, the converter
    would compute it in 8 bits too, and probabilities would be multiples of 1/256.
    """
    # Here, because it is slow to import.
    from ai_edge_litert import schema_py_generated as schema

    model = unpacked(content)
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    (logits,) = graph.outputs
    softmax = schema.BuiltinOperator.SOFTMAX
    model.operatorCodes.append(
        schema.OperatorCodeT(deprecatedBuiltinCode=softmax, builtinCode=softmax)
    )
    graph.tensors.append(
        schema.TensorT(
            shape=graph.tensors[logits].shape,
            type=schema.TensorType.FLOAT32,
            name="probabilities",
            hasRank=True,
        )
    )
    probabilities = len(graph.tensors) - 1
    graph.operators.append(
        schema.OperatorT(
            opcodeIndex=len(model.operatorCodes) - 1,
            inputs=[logits],
            outputs=[probabilities],
            builtinOptionsType=schema.BuiltinOptions.SoftmaxOptions,
            builtinOptions=schema.SoftmaxOptionsT(beta=1.0),
        )
    )
    outputs = {"probabilities": probabilities}
    if with_logits:
        outputs["logits"] = int(logits)
    graph.outputs = list(outputs.values())
    signature.outputs = [schema.TensorMapT(*each) for each in outputs.items()]
    flatbuffer = metadata(
        description,
        version=hashlib.sha256(content).hexdigest()[:_VERSION_DIGITS],
        outputs=["probability", "logit"][: len(outputs)],
        labels=LABELS,
    )
    model.buffers.append(schema.BufferT(data=np.frombuffer(flatbuffer, np.uint8)))
    model.metadata.append(schema.MetadataT(METADATA, len(model.buffers) - 1))
    return packed(model)


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
