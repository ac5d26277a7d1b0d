"""One interface to everything that turns images into logits.

`load_classifier` opens a run directory, or anything that `afd_tf.artifacts.exporter`
wrote.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from afd_tf.artifacts.diagnosis import found_at
from afd_tf.artifacts.interpreters import Interpreters
from afd_tf.artifacts.manifest import (
    MANIFEST,
    SIGNATURE,
    ManifestError,
    check_file,
    check_labels,
    read_bytes,
    read_manifest,
)
from afd_tf.artifacts.networks import ClassifierNetwork, softmax
from afd_tf.artifacts.peer_choice import (
    choose_peer,
    chosen_or_smallest,
    peer_from_flags,
)
from afd_tf.artifacts.peer_network import peer_network
from afd_tf.artifacts.saved_model import open_saved_model
from afd_tf.base.errors import UserError
from afd_tf.base.paths import expanded
from afd_tf.data import DatasetInfo
from afd_tf.training.checkpoints import checkpoint_from_flags, load_peers
from afd_tf.training.run_directory import read_flags

_ARTIFACT = flags.DEFINE_string(
    "artifact",
    None,
    "Network to use: a run directory, a SavedModel, a version that export wrote, or a "
    ".tflite file.",
)
_TOP_K = flags.DEFINE_integer(
    "top_k",
    5,
    "Number of classes to name for an image, the most probable first.",
    lower_bound=1,
)

# What reading a .tflite file raises if it is cut off or another program's.
_INVALID_TFLITE = (zipfile.BadZipFile, KeyError, TypeError, ValueError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A run directory or an artifact, loaded.

    Example:
        classifier = load_classifier("runs/digits")
        probabilities = classifier.predict(images)  # uint8 [B, h, w, c]
        names = [classifier.class_names[k] for k in probabilities.argmax(axis=-1)]

    Attributes:
      path: where it was loaded from.
      format: "checkpoint", or a key of `manifest.FORMATS`.
      info: the data set that it was trained on.
      run_flags: the flags of its run, as text by name; empty for a .tflite file
        without its manifest.
      networks: all peers of a run directory, or the one that an artifact holds.
      chosen: the index of the network that `logits` and `predict` run.
    """

    path: Path
    format: str
    info: DatasetInfo
    run_flags: Mapping[str, str]
    networks: Sequence[ClassifierNetwork]
    chosen: int = 0

    @property
    def name(self) -> str:
        """The name of the chosen network."""
        return self.networks[self.chosen].name

    @property
    def description(self) -> str:
        """Name and format, for messages."""
        return f"{self.name} ({self.format})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that it takes."""
        return self.info.image_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per logit."""
        return self.info.class_names

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Runs the chosen network.

        Args:
          images: uint8 [B, h, w, c], raw pixels, of `image_shape`.

        Returns:
          float32 [B, classes].

        Raises:
          UserError: the images have another shape or another dtype.
        """
        images = np.asarray(images)
        # A .tflite file of its own would answer for images of any size.
        if images.shape[1:] != tuple(self.image_shape) or images.ndim != 4:
            height, width, channels = self.image_shape
            raise UserError(
                f"images of shape {list(images.shape)} were given, but {self.name} "
                f"takes [B, {height}, {width}, {channels}]: resize them, e.g. with "
                "afd_tf.data.image_files.read_image, and stack them."
            )
        if images.dtype != np.uint8:
            raise UserError(
                f"images of dtype {images.dtype} were given, but {self.name} takes "
                "uint8: give raw pixels, 0 to 255, as the normalization is inside."
            )
        if len(images) == 0:
            return np.zeros([0, self.info.num_classes], np.float32)
        return self.networks[self.chosen].logits(images)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Runs the chosen network.

        Args:
          images: uint8 [B, h, w, c], raw pixels, of `image_shape`.

        Returns:
          float32 [B, classes], the probability of each class; each row adds up to 1.

        Raises:
          UserError: the images have another shape or another dtype.
        """
        return softmax(np.float64(self.logits(images))).astype(np.float32)


def artifact_from_flags() -> Path:
    """Returns --artifact.

    Raises:
      UserError: it is not given.
    """
    if _ARTIFACT.value is None:
        raise UserError(
            "--artifact is not given: name a run directory, a SavedModel or a .tflite "
            "file, e.g. --artifact=runs/digits."
        )
    return expanded(_ARTIFACT.value, any_bytes=True)


def load_classifier_from_flags() -> Classifier:
    """Loads --artifact; --peer and --checkpoint apply to a run directory.

    Raises:
      UserError: --artifact is not given; or see `load_classifier`.
    """
    return load_classifier(
        artifact_from_flags(), peer_from_flags(), checkpoint_from_flags()
    )


def top_k_from_flags() -> int:
    """Returns --top_k."""
    return _TOP_K.value


def load_classifier(
    path: str | Path, peer: str | int | None = None, checkpoint: str = "last"
) -> Classifier:
    """Loads anything that turns images into logits.

    Args:
      path: a run directory, a SavedModel, a version that `export` wrote (of which
        the SavedModel is taken, if it has one), or a .tflite file.
      peer: number (from 0) or name of a peer; None is the one with the fewest
        parameters.
      checkpoint: "last", or "best" on the validation images; of a run directory.

    Raises:
      UserError: it is none of these, it is damaged, or there is no such peer.
    """
    path = expanded(path, any_bytes=True)
    if not os.path.exists(path):
        raise UserError(f"there is no artifact {path}. {found_at(path)}")
    if path.is_file():
        classifier = _load_tflite(path)
    elif (path / "saved_model.pb").is_file():
        classifier = _load_saved_model(expanded(path))
    elif (path / "flags.cfg").is_file():
        return _load_run(expanded(path), peer, checkpoint)
    else:
        classifier = _load_tflite(_first_file(path))
    if peer is not None:
        choose_peer([network.name for network in classifier.networks], peer)
    return classifier


def _first_file(path: Path) -> Path:
    """Returns the first file of a version that has no SavedModel."""
    if (path / MANIFEST).is_file():
        for entry in read_manifest(path)["formats"].values():
            # A format that was refused has no path.
            if "path" in entry and (path / entry["path"]).is_file():
                return path / entry["path"]
    raise UserError(
        f"{path} is no artifact: expected a run directory (with flags.cfg), a "
        "SavedModel or a version of it (with saved_model.pb), or a .tflite file. "
        f"{found_at(path)}"
    )


def _load_run(path: Path, choice: str | int | None, checkpoint: str) -> Classifier:
    peers, info = load_peers(path, checkpoint)
    return Classifier(
        path=path,
        format="checkpoint",
        info=info,
        run_flags=read_flags(path),
        networks=[peer_network(peer, info.image_shape) for peer in peers],
        chosen=chosen_or_smallest(peers, choice),
    )


def _load_saved_model(path: Path) -> Classifier:
    manifest, loaded = open_saved_model(path)

    def logits(images: np.ndarray) -> np.ndarray:
        # `loaded` and not its signature: the variables live as long as it does.
        return loaded.signatures[SIGNATURE](image=tf.constant(images))["logits"].numpy()

    return _artifact_classifier(path, "saved_model", manifest, logits)


def _load_tflite(path: Path) -> Classifier:
    content = read_bytes(path)
    run_flags = {}
    # The file may have been moved, perhaps to where another program's manifest is.
    with contextlib.suppress(ManifestError):
        manifest = read_manifest(path.parent)
        if path.name in manifest["files"]:
            check_file(path, manifest["files"][path.name])
            check_labels(path.parent, manifest)
            run_flags = manifest["flags"]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            description = json.loads(archive.read(MANIFEST))
        model = description["model"]
        # The interpreter may crash over a damaged model, or compute nonsense.
        if hashlib.sha256(content[: model["bytes"]]).hexdigest() != model["sha256"]:
            raise ValueError("its checksum is another")
        return _artifact_classifier(
            path,
            description["format"],
            {**description, "flags": run_flags},
            Interpreters(content).logits,
        )
    except _INVALID_TFLITE as error:
        raise UserError(
            f"{path} is damaged, or is not a .tflite file that "
            f"`python -m afd_tf.export` wrote ({error}). {found_at(path)}"
        ) from error


def _artifact_classifier(
    path: Path,
    format_name: str,
    manifest: Mapping[str, Any],
    logits: Callable[[np.ndarray], np.ndarray],
) -> Classifier:
    return Classifier(
        path=path,
        format=format_name,
        info=DatasetInfo.from_json(manifest["dataset"]),
        run_flags=manifest["flags"],
        networks=[ClassifierNetwork(manifest["name"], logits)],
    )
