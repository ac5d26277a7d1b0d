"""The flatbuffer of a .tflite file as objects that can be changed, and back."""

from typing import Any

import flatbuffers


def unpacked(content: bytes) -> Any:
    """Returns the schema's ModelT of a TFLite model."""
    # Here, because it is slow to import.
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))


def packed(model: Any) -> bytes:
    """Returns the TFLite model of a ModelT."""
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
