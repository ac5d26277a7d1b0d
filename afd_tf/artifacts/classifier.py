"""One interface to everything that turns images into logits.

`load_classifier` opens a run directory, or anything that `afd_tf.artifacts.exporter`
wrote.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from afd_tf.artifacts import interpreters, keras_file, onnx_file, openvino_file
from afd_tf.artifacts.diagnosis import found_at
from afd_tf.artifacts.manifest import (
    FORMATS,
    MANIFEST,
    ManifestError,
    check_file,
    check_labels,
    read_manifest,
)
from afd_tf.artifacts.networks import ClassifierNetwork, softmax
from afd_tf.artifacts.peer_choice import (
    choose_peer,
    chosen_or_smallest,
    peer_from_flags,
)
from afd_tf.base.command_line import import_tensorflow
from afd_tf.base.errors import UserError
from afd_tf.base.paths import expanded
from afd_tf.data.dataset_info import DatasetInfo
from afd_tf.training.checkpoint_choice import checkpoint_from_flags

_ARTIFACT = flags.DEFINE_string(
    "artifact",
    None,
    "Network to use: a run directory, a SavedModel, a version that export wrote, or a "
    ".tflite, .keras, .onnx or .xml file of it.",
)
_TOP_K = flags.DEFINE_integer(
    "top_k",
    5,
    "Number of classes to name for an image, the most probable first.",
    lower_bound=1,
)


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
      run_flags: the flags of its run, as text by name; empty for a file without its
        manifest.
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
    def needs_tensorflow(self) -> bool:
        """Whether TensorFlow runs it; then it is imported already."""
        return self.format not in FORMATS or FORMATS[self.format].needs_tensorflow

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


def artifact_is_given() -> bool:
    """Returns whether --artifact is given."""
    return _ARTIFACT.value is not None


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
        the SavedModel is taken, if it has one), or another file of a version: .tflite,
        .keras, .onnx or, of OpenVINO, .xml.
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
        classifier = _load_file(path)
    elif (path / "saved_model.pb").is_file():
        classifier = _load_saved_model(expanded(path))
    elif (path / "flags.cfg").is_file():
        return _load_run(expanded(path), peer, checkpoint)
    else:
        classifier = _load_file(_first_file(path))
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
        "SavedModel or a version of it (with saved_model.pb), or a file that export "
        "wrote (.tflite, .keras, .onnx, .xml). "
        f"{found_at(path)}"
    )


def _load_run(path: Path, choice: str | int | None, checkpoint: str) -> Classifier:
    # Files for phones and for ONNX Runtime are loaded without TensorFlow.
    import_tensorflow()
    from afd_tf.artifacts.peer_network import peer_network
    from afd_tf.training.checkpoints import load_peers
    from afd_tf.training.run_directory import read_flags

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
    import_tensorflow()
    from afd_tf.artifacts.saved_model import read

    manifest, logits = read(path)
    return _artifact_classifier(path, "saved_model", manifest, logits)


def _load_file(path: Path) -> Classifier:
    """Loads a format that is a file, which has its description inside.

    Raises:
      UserError: it is damaged, or another program's, or what runs it is not installed.
    """
    suffix = path.suffix.lower() if path.suffix.lower() in _READERS else ".tflite"
    run_flags = {}
    # The file may have been moved, perhaps to where another program's manifest is.
    with contextlib.suppress(ManifestError):
        manifest = read_manifest(path.parent)
        if path.name in manifest["files"]:
            check_file(path, manifest["files"][path.name])
            check_labels(path.parent, manifest)
            run_flags = manifest["flags"]
    try:
        description, logits = _READERS[suffix](path)
        return _artifact_classifier(
            path, description["format"], {**description, "flags": run_flags}, logits
        )
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{path} needs the package {error.name}, which is not installed: `pip "
            f"install {error.name}`."
        ) from error
    # What a runtime raises over a file that is cut off, or another program's, is not
    # documented.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} is damaged, or is not a {suffix} file that "
            f"`python -m afd_tf.export` wrote ({reason}). {found_at(path)}"
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


# The end of a file's name → what reads it.
_READERS = {
    ".keras": keras_file.read,
    ".onnx": onnx_file.read,
    ".tflite": interpreters.read,
    ".xml": openvino_file.read,
}
