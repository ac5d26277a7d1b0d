"""A peer with the weights of a SavedModel that `export` wrote: the way back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from afd_tf.artifacts.diagnosis import found_at
from afd_tf.artifacts.manifest import SIGNATURE
from afd_tf.artifacts.saved_model import open_saved_model
from afd_tf.base.errors import UserError
from afd_tf.data import DatasetInfo
from afd_tf.models import Peer, build_peer
from afd_tf.models.network_name import parse_network_name

# The greatest difference of a logit between the SavedModel and the peer built again,
# as a fraction of the greatest logit: float32, summed in another order.
_TOLERANCE = 1e-4
_CHECKED_IMAGES = 4


def load_exported_peer(path: Path) -> tuple[Peer, DatasetInfo, dict]:
    """Builds the network of an exported version again, with its weights.

    Args:
      path: a version that `export` wrote, with its SavedModel.

    Returns:
      the peer, the data set that it was trained on, and the version's manifest.

    Raises:
      UserError: there is no SavedModel of ours, the network is not one that its name
        builds again, or what is built gives other answers than the SavedModel.
    """
    if not (path / "saved_model.pb").is_file():
        raise UserError(
            f"--artifact={path} has no saved_model.pb: expected the directory of a "
            "version that was exported with --formats=saved_model, as other files do "
            f"not keep the weights as they were trained. {found_at(path)}"
        )
    manifest, loaded = open_saved_model(path)
    info = DatasetInfo.from_json(manifest["dataset"])
    name = _network_name(path, manifest)
    peer = build_peer(name, info, initial_weights=False)
    weights = getattr(loaded, "weights", ())
    shapes = [tuple(each.shape) for each in weights]
    if shapes != [tuple(each.shape) for each in peer.variables]:
        raise _other_network(path, name)
    for variable, value in zip(peer.variables, weights, strict=True):
        variable.assign(value.numpy())
    images = np.random.default_rng(0).integers(
        0, 256, (_CHECKED_IMAGES, *info.image_shape), dtype=np.uint8
    )
    expected = loaded.signatures[SIGNATURE](image=tf.constant(images))["logits"].numpy()
    actual = peer(images, training=False).logits.numpy()
    if not np.allclose(actual, expected, atol=_TOLERANCE * np.abs(expected).max()):
        raise _other_network(path, name)
    return peer, info, manifest


def _network_name(path: Path, manifest: Mapping[str, Any]) -> str:
    """Returns the name that builds the network, as it stood in --peers.

    Raises:
      UserError: it cannot be built by a name alone.
    """
    own = manifest["name"]
    for spec in manifest["flags"].get("peers", own).split(","):
        network = parse_network_name(spec)
        if network.short == own:
            if network.kind:
                raise UserError(
                    f"{path} holds {spec}, a network that is kept in its run: export "
                    "it with --run_dir=RUN instead of --artifact."
                )
            return spec
    return own


def _other_network(path: Path, name: str) -> UserError:
    return UserError(
        f"{path} does not fit the network {name} that this version of afd_tf builds: "
        "export it with the version that wrote it (versions in manifest.json), or from "
        "its run with --run_dir=RUN."
    )
