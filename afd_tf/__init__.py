"""Online knowledge distillation with adversarial feature maps, from data to device.

The Python API, without command-line flags. Importing it loads nothing heavy; each name
brings what it needs when it is first used.

Example:
    >>> import afd_tf
    >>> dataset = afd_tf.load_data("digits")
    >>> peers = afd_tf.build_peers(["resnet8", "resnet14"], dataset.info)
    >>> method = afd_tf.build_method("afd", peers)
    >>> method.compile(epochs=2, steps_per_epoch=dataset.steps_per_epoch(64))
    >>> history = method.fit(dataset, batch_size=64, verbose=0)
    >>> sorted(method.evaluate(dataset, verbose=0, return_dict=True))
    ['ensemble/accuracy', 'peer_0/accuracy', 'peer_1/accuracy']
    >>> exported = afd_tf.export_peer(method.peers[0], dataset, "savedmodels/digits")
    >>> classifier = afd_tf.load(exported["directory"])
    >>> images = next(iter(dataset.evaluation_batches("test", batch_size=4)))["image"]
    >>> classifier.predict(images.numpy()).shape
    (4, 10)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afd_tf.artifacts.classifier import load_classifier as load
    from afd_tf.artifacts.exporter import export as export_peer
    from afd_tf.artifacts.teacher import load_teacher
    from afd_tf.base.errors import UserError
    from afd_tf.data import Dataset, DatasetInfo
    from afd_tf.data import load as load_data
    from afd_tf.distill.method import Method
    from afd_tf.distill.methods import METHODS, build_method
    from afd_tf.distill.recipes import Recipe
    from afd_tf.distill.step import Execution
    from afd_tf.models import PEERS, Peer, build_peers

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "PEERS",
    "Dataset",
    "DatasetInfo",
    "Execution",
    "Method",
    "Peer",
    "Recipe",
    "UserError",
    "build_method",
    "build_peers",
    "export_peer",
    "load",
    "load_data",
    "load_teacher",
]

# Name → the module that defines it, and its name there.
_API = {
    "METHODS": ("afd_tf.distill.methods", "METHODS"),
    "PEERS": ("afd_tf.models", "PEERS"),
    "Dataset": ("afd_tf.data", "Dataset"),
    "DatasetInfo": ("afd_tf.data", "DatasetInfo"),
    "Execution": ("afd_tf.distill.step", "Execution"),
    "Method": ("afd_tf.distill.method", "Method"),
    "Peer": ("afd_tf.models", "Peer"),
    "Recipe": ("afd_tf.distill.recipes", "Recipe"),
    "UserError": ("afd_tf.base.errors", "UserError"),
    "build_method": ("afd_tf.distill.methods", "build_method"),
    "build_peers": ("afd_tf.models", "build_peers"),
    "export_peer": ("afd_tf.artifacts.exporter", "export"),
    "load": ("afd_tf.artifacts.classifier", "load_classifier"),
    "load_data": ("afd_tf.data", "load"),
    "load_teacher": ("afd_tf.artifacts.teacher", "load_teacher"),
}


def __getattr__(name: str) -> Any:
    """Returns a name of the API, importing its module at the first use."""
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _API[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the names of the API beside those that are loaded."""
    return sorted({*globals(), *_API})
