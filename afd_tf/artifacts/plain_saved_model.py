"""A SavedModel for converters: one signature, numbers only."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from afd_tf.artifacts.manifest import SIGNATURE
from afd_tf.artifacts.saved_model import Weights
from afd_tf.data import DatasetInfo
from afd_tf.models import Peer


@contextlib.contextmanager
def plain_saved_model(peer: Peer, image_shape: Sequence[int]) -> Iterator[Path]:
    """Writes a peer to a directory that is removed at the end.

    The signature serving_default takes "image", uint8 [B, h, w, c], and gives "logits"
    and "probabilities", float32 [B, classes].

    Args:
      peer: the network.
      image_shape: (h, w, c).
    """
    image = tf.TensorSpec([None, *image_shape], tf.uint8, name="image")

    @tf.function(input_signature=[image], autograph=False)
    def serving_default(image):
        logits = peer(image, training=False).logits
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    with tempfile.TemporaryDirectory() as directory:
        concrete = serving_default.get_concrete_function()
        tf.saved_model.save(Weights(peer), directory, signatures={SIGNATURE: concrete})
        yield Path(directory)


def signature_entry(info: DatasetInfo) -> dict:
    """Returns the inputs and outputs of the signature, for a manifest."""
    numbers = {"dtype": "float32", "shape": [None, info.num_classes]}
    return {
        "inputs": {"image": {"dtype": "uint8", "shape": [None, *info.image_shape]}},
        "outputs": {"logits": numbers, "probabilities": numbers},
    }
