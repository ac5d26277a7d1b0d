"""One interface to everything that turns pictures into logits.

Run directories and what `afd_tf.artifact` writes from them, loaded by `load_runner`.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags

from afd_tf.checkpoint import checkpoint_from_flags, load_peers
from afd_tf.data import DatasetInfo
from afd_tf.errors import UserError, unknown_name
from afd_tf.journal import read_flags
from afd_tf.models import Peer

_ARTIFACT = flags.DEFINE_string(
    "artifact",
    None,
    "What to run: a run directory, a SavedModel, a version that export wrote, or a "
    ".tflite file.",
)
_TOP_K = flags.DEFINE_integer(
    "top_k", 5, "How many classes to name, the most probable first.", lower_bound=1
)
_PEER = flags.DEFINE_string(
    "peer",
    None,
    "Which peer of the run: its number (from 0) or name. Default: the one with the "
    "fewest parameters.",
)

# Signatures: of every artifact, and further ones of a SavedModel.
SIGNATURE = "serving_default"
ENCODED = "encoded"
FEATURES = "features"

MANIFEST = "manifest.json"
LABELS = "labels.txt"

# What reading a .tflite file raises if it is cut off or another program's.
_NOT_OURS = (zipfile.BadZipFile, KeyError, TypeError, ValueError, RuntimeError)

# Each interpreter has its own copy of the weights.
_MOST_INTERPRETERS = 8


class Network(NamedTuple):
    """A network that can be run.

    Attributes:
      name: of the peer.
      logits: uint8 [B, h, w, c] → float32 [B, classes], for any B.
    """

    name: str
    logits: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Runner:
    """A run directory or an artifact, loaded.

    Attributes:
      path: where it was loaded from.
      format: "checkpoint", or a format of `afd_tf.artifact`.
      info: the data set that it was trained on.
      run_flags: flags of the run that it comes from, as text by name; empty for a
        .tflite file without its manifest.
      networks: all peers of a run directory, or the one that an artifact holds.
      chosen: which of them is meant.
    """

    path: Path
    format: str
    info: DatasetInfo
    run_flags: Mapping[str, str]
    networks: Sequence[Network]
    chosen: int = 0

    @property
    def description(self) -> str:
        """A few words for messages."""
        return f"{self.networks[self.chosen].name} ({self.format})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures that it takes."""
        return self.info.image_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per logit."""
        return self.info.class_names

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Runs the chosen network.

        Args:
          images: uint8 [B, h, w, c], raw pixels.

        Returns:
          float32 [B, classes].
        """
        return self.networks[self.chosen].logits(images)


def artifact_from_flags() -> Path:
    """Returns --artifact.

    Raises:
      UserError: it is not given.
    """
    if _ARTIFACT.value is None:
        raise UserError("give what to run, e.g. --artifact=runs/digits.")
    return Path(_ARTIFACT.value)


def load_runner_from_flags() -> Runner:
    """Loads what --artifact names, with the --peer and the --checkpoint of a run.

    Raises:
      UserError: nothing is named; or see `load_runner`.
    """
    return load_runner(
        artifact_from_flags(), peer=_PEER.value, checkpoint=checkpoint_from_flags()
    )


def top_k_from_flags() -> int:
    """Returns --top_k."""
    return _TOP_K.value


def load_runner(
    path: Path, *, peer: str | None = None, checkpoint: str = "last"
) -> Runner:
    """Loads anything that turns pictures into logits.

    Args:
      path: a run directory, a SavedModel, a version that `export` wrote (of which
        the SavedModel is taken, if it has one), or a .tflite file.
      peer: number or name of a peer; None is the smallest one.
      checkpoint: "last" or "best", of a run directory.

    Raises:
      UserError: it is none of these, it is damaged, or there is no such peer.
    """
    path = Path(path)
    if path.is_file():
        runner = _load_tflite(path)
    elif (path / "saved_model.pb").is_file():
        runner = _load_saved_model(path)
    elif (path / "flags.cfg").is_file():
        return _load_run(path, peer, checkpoint)
    else:
        runner = _load_tflite(_first_file(path))
    if peer is not None:
        choose_peer([network.name for network in runner.networks], peer)
    return runner


def _first_file(path: Path) -> Path:
    """Returns the first file that an export without a SavedModel consists of."""
    if not path.exists():
        raise UserError(f"there is no artifact {path}.")
    if (path / MANIFEST).is_file():
        for written in _read_manifest(path)["formats"].values():
            # One that was refused has no path.
            if "path" in written and (path / written["path"]).is_file():
                return path / written["path"]
    raise UserError(
        f"{path} is no artifact: expected a run directory (with flags.cfg), a "
        "SavedModel or a version of it (with saved_model.pb), or a .tflite file."
    )


def _load_run(path: Path, choice: str | None, checkpoint: str) -> Runner:
    peers, info = load_peers(path, checkpoint)
    return Runner(
        path=path,
        format="checkpoint",
        info=info,
        run_flags=read_flags(path),
        networks=[peer_network(peer, info.image_shape) for peer in peers],
        chosen=_chosen_peer(peers, choice),
    )


def peer_network(peer: Peer, image_shape: Sequence[int]) -> Network:
    """Returns a peer as something that can be run."""

    # One trace for every batch size.
    @tf.function(
        input_signature=[tf.TensorSpec([None, *image_shape], tf.uint8)],
        autograph=False,
    )
    def logits(images):
        return peer(images, training=False).logits

    return Network(peer.name, lambda images: logits(images).numpy())


def open_saved_model(path: Path) -> tuple[dict, Any]:
    """Loads a SavedModel that `export` wrote.

    Returns:
      its manifest, and what TensorFlow makes of it; its variables live as long as that.

    Raises:
      UserError: it is damaged, or not one of ours.
    """
    manifest = _read_manifest(path)
    for name in manifest["files"]:
        if name == "saved_model.pb" or name.startswith("variables/"):
            _check_file(path / name, manifest["files"][name])
    _check_labels(path, manifest)
    try:
        return manifest, tf.saved_model.load(str(path))
    # E.g. an operator of another version of TensorFlow; what it raises is not said.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"TensorFlow cannot load {path}: {reason}") from error


def _load_saved_model(path: Path) -> Runner:
    manifest, loaded = open_saved_model(path)

    def logits(images: np.ndarray) -> np.ndarray:
        # `loaded` and not its signature: the variables live as long as it does.
        return loaded.signatures[SIGNATURE](image=tf.constant(images))["logits"].numpy()

    return _artifact_runner(path, "saved_model", manifest, logits)


def _load_tflite(path: Path) -> Runner:
    content = _read_bytes(path)
    run_flags = {}
    # The file may have been moved, perhaps to where another program's manifest is.
    with contextlib.suppress(_ManifestError):
        manifest = _read_manifest(path.parent)
        if path.name in manifest["files"]:
            _check_file(path, manifest["files"][path.name])
            _check_labels(path.parent, manifest)
            run_flags = manifest["flags"]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            description = json.loads(archive.read(MANIFEST))
        model = description["model"]
        # The interpreter may crash over a damaged model, or compute nonsense.
        if hashlib.sha256(content[: model["bytes"]]).hexdigest() != model["sha256"]:
            raise ValueError("its checksum is another")
        return _artifact_runner(
            path,
            description["format"],
            {**description, "flags": run_flags},
            _Interpreters(content).logits,
        )
    except _NOT_OURS as error:
        raise UserError(
            f"{path} is damaged, or is not a .tflite file that "
            f"`python -m afd_tf.export` wrote ({error})."
        ) from error


def _artifact_runner(path, kind, manifest, logits) -> Runner:
    return Runner(
        path=path,
        format=kind,
        info=DatasetInfo.from_json(manifest["dataset"]),
        run_flags=manifest["flags"],
        networks=[Network(manifest["name"], logits)],
    )


class _Interpreters:
    """Runs a .tflite file for one picture on as many pictures as there are processors.

    Args:
      content: of the file.

    Raises:
      ValueError: it is no TFLite model, or has another signature than ours.
    """

    def __init__(self, content: bytes):
        self._content = content
        self._functions = [self._function()]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [B, classes] for uint8 [B, h, w, c]."""
        workers = min(os.cpu_count() or 1, _MOST_INTERPRETERS, len(images))
        while len(self._functions) < workers:
            self._functions.append(self._function())

        def run(function, part):
            return [function(image=image[np.newaxis])["logits"] for image in part]

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            parts = pool.map(run, self._functions, np.array_split(images, workers))
            return np.concatenate([logits for part in parts for logits in part])

    def _function(self):
        # Here, because most of what uses this module runs no .tflite file.
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self._content, num_threads=1)
        return interpreter.get_signature_runner(SIGNATURE)


class _ManifestError(UserError):
    """A directory without a manifest of ours."""


def _read_manifest(directory: Path) -> dict:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        DatasetInfo.from_json(manifest["dataset"])
        if manifest.keys() >= {"name", "flags", "formats", "files"}:
            return manifest
        reason = "it lacks entries"
    except FileNotFoundError:
        reason = "it is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise _ManifestError(
        f"{path} is not what `python -m afd_tf.export` writes beside an artifact: "
        f"{reason}."
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error


def _check_file(path: Path, expected: Mapping[str, Any]) -> None:
    if hashlib.sha256(_read_bytes(path)).hexdigest() != expected["sha256"]:
        raise UserError(
            f"{path} is not the file that {MANIFEST} describes: it is damaged or was "
            "replaced."
        )


def _check_labels(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses another model's labels beside an artifact; it needs none itself."""
    if LABELS in manifest["files"] and (directory / LABELS).exists():
        _check_file(directory / LABELS, manifest["files"][LABELS])


def chosen_peer_from_flags(peers: Sequence[Peer]) -> int:
    """Returns the number of the peer that --peer chooses.

    Raises:
      UserError: there is no such peer.
    """
    return _chosen_peer(peers, _PEER.value)


def _chosen_peer(peers: Sequence[Peer], choice: str | None) -> int:
    """Returns the number of the peer that is meant; None means the smallest."""
    if choice is None:
        return min(range(len(peers)), key=lambda number: peers[number].parameters)
    return choose_peer([peer.name for peer in peers], choice)


def choose_peer(names: Sequence[str], choice: str) -> int:
    """Returns the number of the peer that `choice`, a number or a name, means.

    Raises:
      UserError: there is no such peer, or several have that name.
    """
    if choice.isdecimal():
        if int(choice) < len(names):
            return int(choice)
        raise UserError(
            f"there is no peer {choice}: there are {len(names)}, counted from 0 "
            f"({', '.join(names)})."
        )
    if choice not in names:
        raise unknown_name("peer", choice, names)
    if names.count(choice) > 1:
        raise UserError(
            f"{names.count(choice)} peers are called {choice!r}: give the number of "
            f"one of {', '.join(names)}, counted from 0."
        )
    return names.index(choice)
