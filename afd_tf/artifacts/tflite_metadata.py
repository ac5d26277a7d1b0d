"""TFLITE_METADATA: what MediaPipe and the Task libraries read in a .tflite file.

A flatbuffer in the model says what the input and the outputs mean; it names the file
of class names, which is in the zip archive behind the model. Tables and field numbers
are those of the published schema, `metadata_schema.fbs` of TensorFlow Lite Support and
MediaPipe (namespace tflite, file identifier M001).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
from flatbuffers import number_types

from afd_tf.artifacts.manifest import dataset_title

# The name that TFLite finds the flatbuffer by, and the flatbuffer's own identifier.
METADATA = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
# The first parser that knows all fields that are used here.
_MIN_PARSER_VERSION = "1.0.0"

# Values of the schema's enumerations and unions.
_AXIS_LABELS = 2  # AssociatedFileType.TENSOR_AXIS_LABELS
_RGB, _GRAYSCALE = 1, 2  # ColorSpaceType
_FEATURE, _IMAGE = 1, 2  # ContentProperties
_NORMALIZATION = 1  # ProcessUnitOptions

# A table: field number → text, table, tables, floats, or a `_Number`.
_Table = Mapping[int, Any]


class _Number(int):
    """A number of one byte, as enumerations and the kinds of unions are."""


class _Number32(int):
    """A number of four bytes without sign."""


def metadata(
    description: Mapping[str, Any], *, version: str, outputs: Sequence[str], labels: str
) -> bytes:
    """Returns the flatbuffer of a classifier of raw pixels.

    Mean 0 and standard deviation 1 say that pixels go in as they are; a client reads
    them for float inputs only. There is no score calibration: scores are probabilities.

    Args:
      description: the manifest's "name", "dataset", "method" and, perhaps, "license".
      version: of the network.
      outputs: the names of the output tensors, "probability" or "logit", in their
        order in the model. Each becomes a classification head with class names.
      labels: the name of the file of class names in the archive.
    """
    dataset = description["dataset"]
    height, width, channels = dataset["image_shape"]
    classes = len(dataset["class_names"])
    colours = {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")
    space = {1: _GRAYSCALE, 3: _RGB}.get(channels, 0)
    size = {0: _Number32(width), 1: _Number32(height)}
    image = {
        0: "image",
        1: f"Raw pixels, 0 to 255, {height} x {width}, {colours}: the normalization "
        "is inside.",
        3: {0: _Number(_IMAGE), 1: {0: _Number(space), 1: size}},
        4: [{0: _Number(_NORMALIZATION), 1: {0: [0.0], 1: [1.0]}}],
        5: {0: [255.0], 1: [0.0]},
    }
    class_names = {
        0: labels,
        1: "The class names, in the order of the scores.",
        2: _Number(_AXIS_LABELS),
    }
    heads = [
        {
            0: name,
            1: f"The {name} of each of {classes} classes.",
            3: {0: _Number(_FEATURE), 1: {}},
            # Logits have no bounds.
            **({5: {0: [1.0], 1: [0.0]}} if name == "probability" else {}),
            6: [class_names],
        }
        for name in outputs
    ]
    learned = f", trained with {description['method']}" if description["method"] else ""
    model = {
        0: description["name"],
        1: f"A classifier of images into {classes} classes of "
        f"{dataset_title(dataset['name'])}{learned}. Written by afd_tf.",
        2: version,
        3: [{2: [image], 3: heads}],
        **({5: description["license"]} if description.get("license") else {}),
        7: _MIN_PARSER_VERSION,
    }
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, model), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _write(builder: flatbuffers.Builder, table: _Table) -> int:
    """Writes a table behind what it refers to; returns its offset."""
    offsets = {
        field: _write_value(builder, value)
        for field, value in table.items()
        if not isinstance(value, int)
    }
    builder.StartObject(max(table, default=-1) + 1)
    for field, value in table.items():
        if isinstance(value, _Number):
            builder.PrependUint8Slot(field, value, 0)
        elif isinstance(value, _Number32):
            builder.PrependUint32Slot(field, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field, offsets[field], 0)
    return builder.EndObject()


def _write_value(builder: flatbuffers.Builder, value: Any) -> int:
    """Writes a text, a table, or a vector of floats or tables; returns its offset."""
    if isinstance(value, str):
        # As in the SavedModel: names of files may hold what is no UTF-8.
        return builder.CreateString(value.encode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return _write(builder, value)
    size = number_types.UOffsetTFlags.bytewidth
    if isinstance(value[0], float):
        builder.StartVector(size, len(value), size)
        for number in reversed(value):
            builder.PrependFloat32(number)
        return builder.EndVector()
    offsets = [_write(builder, table) for table in value]
    builder.StartVector(size, len(offsets), size)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()
