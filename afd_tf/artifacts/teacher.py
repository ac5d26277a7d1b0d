"""Trained networks that teach: runs, SavedModels, and pretrained ones by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from afd_tf.artifacts.diagnosis import found_at
from afd_tf.artifacts.manifest import FEATURES, SIGNATURE
from afd_tf.artifacts.peer_choice import choose_peer
from afd_tf.artifacts.saved_model import open_saved_model
from afd_tf.base.errors import UserError
from afd_tf.base.paths import expanded
from afd_tf.data import DatasetInfo
from afd_tf.distill.offline_distillation import Teacher, teacher_paths_from_flags
from afd_tf.models import Peer, PeerOutput, build_peer, is_network_name
from afd_tf.training.checkpoints import load_peers


class SavedModelTeacher:
    """An exported network, which gives its logits and its last feature map.

    Attributes:
      name: of the peer that was exported.
      info: the data set that it was trained on.
      tap_shapes: {"features": the map's (h, w, c)}; empty where the SavedModel has no
        signature for it.
      stages: always empty, as the maps of the stages are not exported.

    Args:
      path: a SavedModel that `export` wrote.

    Raises:
      UserError: it cannot be loaded.
    """

    def __init__(self, path: Path):
        manifest, self._loaded = open_saved_model(path)
        self.name = manifest["name"]
        self.info = DatasetInfo.from_json(manifest["dataset"])
        self.stages = []
        self.tap_shapes = {}
        if FEATURES in self._loaded.signatures:
            outputs = self._loaded.signatures[FEATURES].structured_outputs
            self.tap_shapes[FEATURES] = tuple(outputs[FEATURES].shape[1:])

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of `features`."""
        return self.tap_shapes[FEATURES]

    def __call__(self, images: tf.Tensor, training: bool = False) -> PeerOutput:
        """Runs the network, in inference mode, on raw pixels, uint8 [B, h, w, c]."""
        if not self.tap_shapes:
            logits = self._loaded.signatures[SIGNATURE](image=images)["logits"]
            return PeerOutput(None, logits, {})
        outputs = self._loaded.signatures[FEATURES](image=images)
        features = outputs[FEATURES]
        return PeerOutput(features, outputs["logits"], {FEATURES: features})


def teachers_from_flags(info: DatasetInfo, **settings) -> list[Teacher]:
    """Loads the teachers that --teacher names.

    Args:
      info: the data set that the students learn.
      **settings: `initial_weights` and `records`; see `load_teacher`.

    Raises:
      UserError: see `load_teacher`.
    """
    paths, peer = teacher_paths_from_flags()
    return load_teachers(paths, info, peer, **settings)


def load_teachers(
    paths: Sequence[str | Path], info: DatasetInfo, peer: str | None = None, **settings
) -> list[Teacher]:
    """Loads several networks for inference; see `load_teacher`."""
    return [load_teacher(path, info, peer, **settings) for path in paths]


def load_teacher(
    path: str | Path,
    info: DatasetInfo,
    peer: str | None = None,
    *,
    initial_weights: bool = True,
    records: Mapping[str, Mapping[str, Any]] | None = None,
) -> Teacher:
    """Loads a network for inference.

    Args:
      path: a run directory, whose last checkpoint is taken; a SavedModel; or the name
        of a pretrained network, e.g. "efficientnet_lite2@imagenet" or
        "file:model.keras", if nothing has that path.
      info: the data set that the students learn.
      peer: number or name of a run's peer; None is the one with the most parameters.
      initial_weights: of a network by name; see `afd_tf.models.build_peer`.
      records: those of the networks that a run kept, by name; see there.

    Raises:
      UserError: it is none of them, there is no such peer, it was trained on other
        images or classes, or a network by name has random weights.
    """
    name, path = str(path), expanded(path)
    if not path.exists() and is_network_name(name):
        return _by_name(name, info, initial_weights, (records or {}).get(name))
    teacher: Peer | SavedModelTeacher
    if (path / "saved_model.pb").is_file():
        teacher = SavedModelTeacher(path)
        known = teacher.info
    elif not (path / "flags.cfg").is_file():
        raise UserError(
            f"the teacher {path} is no run directory, no SavedModel and no name of a "
            f"network. {found_at(path)}"
        )
    else:
        peers, known = load_peers(path)
        teacher = peers[_chosen_or_largest(peers, peer)]
        teacher.trainable = False
    for compared, own, expected in (
        ("images of shape", known.image_shape, info.image_shape),
        ("classes", known.class_names, info.class_names),
    ):
        if tuple(own) != tuple(expected):
            raise UserError(
                f"the teacher {path} was trained on {known.name}, whose {compared} are "
                f"not those of {info.name}: give one that was trained on the same data."
            )
    return teacher


def _by_name(name, info, initial_weights, record) -> Peer:
    teacher = build_peer(name, info, initial_weights=initial_weights, record=record)
    if not teacher.pretrained:
        raise UserError(
            f"--teacher={name} has random weights: give the run directory in which it "
            "was trained, or a name with weights, e.g. efficientnet_lite0@imagenet."
        )
    teacher.trainable = False
    teacher.random_head = not teacher.pretrained_head
    if teacher.random_head:
        # --freeze_epochs may train it.
        for layer in teacher.head:
            layer.trainable = True
    return teacher


def _chosen_or_largest(peers: Sequence[Peer], choice: str | None) -> int:
    if choice is None:
        return max(range(len(peers)), key=lambda number: peers[number].parameters)
    return choose_peer([peer.name for peer in peers], choice)
