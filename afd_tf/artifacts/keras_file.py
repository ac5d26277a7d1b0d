"""A peer as a .keras file for plain Keras: written, and read without running its code.

The file opens with `keras.saving.load_model` where there is nothing of this project, as
it holds layers of Keras alone (see `keras_graph_copy`). Two more entries of its archive
are the class names and the description; Keras does not look at them.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from afd_tf.artifacts.manifest import LABELS, MANIFEST, labels_text, read_bytes
from afd_tf.artifacts.networks import logits_of
from afd_tf.base.command_line import import_tensorflow
from afd_tf.base.json_text import json_text

# The entries of the archive that Keras reads.
_OF_KERAS = ("config.json", "model.weights.h5")
_CONFIG, _ = _OF_KERAS

# What `keras_graph_copy` makes a model of. None of these runs code from the file.
_LAYERS = (
    *("Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate"),
    *("Conv2D", "Cropping2D", "Dense", "DepthwiseConv2D", "GlobalAveragePooling2D"),
    *("GlobalMaxPooling2D", "InputLayer", "MaxPooling2D", "Maximum", "Minimum"),
    *("Multiply", "Permute", "ReLU", "Rescaling", "Reshape", "Softmax", "Subtract"),
    "ZeroPadding2D",
)
_ALLOWED = {
    "keras": ("DTypePolicy",),
    "keras.initializers": ("GlorotUniform", "Ones", "Zeros"),
    "keras.layers": _LAYERS,
    "keras.src.models.functional": ("Functional",),
    "keras.src.ops.nn": ("Sigmoid",),
    "keras.src.ops.math": ("Erf", "Rsqrt"),
    "keras.src.ops.numpy": (
        *("Abs", "Divide", "Exp", "Flip", "Log", "Max", "Mean", "Negative", "Pad"),
        *("Split", "Sqrt", "Square", "Stack", "Subtract"),
    ),
    None: ("__keras_tensor__", "__tuple__"),
}


def write(peer, info, description: Mapping[str, Any], path: Path) -> dict:
    """Writes a peer as a model of Keras' own layers.

    Args:
      peer: the network, built.
      info: the data set that it was trained on.
      description: JSON values that go into the file: those of the manifest, with
        "format".
      path: the file.

    Returns:
      {"signatures", "quantization", "layers": {"features", "logits"}, the names of the
      layers that give them}.

    Raises:
      UserError: there is no layer for something in the network.
    """
    # Here, because those who read a file need no TensorFlow until then.
    from afd_tf.artifacts.keras_graph_copy import to_functional

    model = to_functional(peer, info.image_shape)
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        sums = {
            name: hashlib.sha256(archive.read(name)).hexdigest() for name in _OF_KERAS
        }
        archive.writestr(LABELS, labels_text(info.class_names))
        archive.writestr(MANIFEST, json_text({**description, "model": sums}))
    return {
        "signatures": {
            "call": {
                "inputs": {
                    "image": {"dtype": "uint8", "shape": [None, *info.image_shape]}
                },
                "outputs": {
                    "probabilities": {
                        "dtype": "float32",
                        "shape": [None, info.num_classes],
                    }
                },
            }
        },
        "quantization": {"type": "none"},
        "layers": {"features": "features", "logits": "classifier"},
    }


def read(path: Path) -> tuple[dict, Callable[[np.ndarray], np.ndarray]]:
    """Returns the description in a file that `write` wrote, and what runs it.

    Raises:
      ValueError: it is another file, it is damaged, or it holds a layer that `write`
        does not write; nothing of it was executed.
      zipfile.BadZipFile, KeyError: it is no archive, or lacks an entry.
    """
    with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
        description = json.loads(archive.read(MANIFEST))
        sums = description["model"]
        for name in _OF_KERAS:
            if hashlib.sha256(archive.read(name)).hexdigest() != sums[name]:
                raise ValueError(f"the checksum of {name} is another")
        _check(json.loads(archive.read(_CONFIG)))
    import_tensorflow()
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)

    def logits(images: np.ndarray) -> np.ndarray:
        return logits_of({"probabilities": np.asarray(model.predict_on_batch(images))})

    return description, logits


def _check(config: Any) -> None:
    """Refuses the configuration of a model that holds what `write` does not write.

    Keras itself refuses code in a Lambda layer, but makes objects of many kinds that a
    file names.

    Raises:
      ValueError: it does.
    """
    if isinstance(config, Mapping):
        if "class_name" in config:
            module, name = config.get("module"), config["class_name"]
            if name not in _ALLOWED.get(module, ()):
                where = f" of {module}" if module else ""
                raise ValueError(
                    f"it holds {name}{where}, which may run code: it was not opened"
                )
        for value in config.values():
            _check(value)
    elif isinstance(config, list):
        for value in config:
            _check(value)
