"""The part of a manifest that says what a network is and where it comes from."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

import afd_tf
from afd_tf.artifacts.manifest import LABELS
from afd_tf.base.run_flags import operational_names
from afd_tf.data import DatasetInfo
from afd_tf.models import Peer
from afd_tf.models.cost import multiply_adds
from afd_tf.training.run_directory import commit

_EARLIER = ("versions", "commit")


def initial_manifest(
    peer: Peer,
    info: DatasetInfo,
    run_flags: Mapping[str, str],
    model_license: str | None = None,
    earlier: Mapping[str, Any] | None = None,
) -> dict:
    """Returns the part of a manifest that is known before anything is written.

    The flags that say where and how the run was carried out are left out: paths on
    the machine of the run do not concern those who get the artifact.

    Args:
      peer: a built peer.
      info: the data set that it was trained on.
      run_flags: the flags of its run, as text by name.
      model_license: of the network, as its owner states it.
      earlier: see `exporter.export`.
    """
    left_out = operational_names()
    pixels = peer.normalization
    # Of a network that takes the channels in reverse, in the order of the image's.
    order = slice(None, None, -1 if pixels.reverse else 1)
    earlier = earlier or {}
    return {
        "name": peer.name,
        "method": run_flags.get("method"),
        "license": model_license or earlier.get("license"),
        "dataset": info.to_json(),
        "classes": info.num_classes,
        "input": {
            "name": "image",
            "dtype": "uint8",
            "shape": [None, *info.image_shape],
            "range": [0, 255],
        },
        "preprocessing": "image takes raw pixels, 0 to 255, of the shape above: the "
        "normalization, (pixels - mean) / sqrt(variance) per channel, is inside. "
        "image_bytes takes JPEG or PNG files of any size: inside, the camera's "
        "orientation (EXIF or XMP) is applied, and the largest centre of the shape's "
        "ratio is cut out and resized, bilinear and antialiased.",
        "normalization": {
            "mean": list(pixels.mean[order]),
            "variance": list(pixels.variance[order]),
        },
        "labels": LABELS,
        "parameters": peer.parameters,
        "multiply_adds": multiply_adds(peer, info.image_shape),
        "versions": {
            "afd_tf": afd_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "commit": commit(),
        # Of the version that the weights were taken from.
        **({"earlier": {key: earlier[key] for key in _EARLIER}} if earlier else {}),
        "flags": {
            name: text for name, text in run_flags.items() if name not in left_out
        },
    }
