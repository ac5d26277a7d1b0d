"""Trained networks that teach and no longer learn: what --teacher names."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from absl import flags

from afd_tf.checkpoint import load_peers
from afd_tf.data import DatasetInfo
from afd_tf.distill.offline import Teacher
from afd_tf.errors import UserError
from afd_tf.models import Peer, PeerOutput
from afd_tf.runner import FEATURES, SIGNATURE, choose_peer, open_saved_model

_TEACHER = flags.DEFINE_list(
    "teacher",
    [],
    "For offline methods: a run directory or a SavedModel; for some, several of them.",
)
_TEACHER_PEER = flags.DEFINE_string(
    "teacher_peer",
    None,
    "Which peer of the teacher's run: number or name. Default: the one with the most "
    "parameters.",
)


class SavedModelTeacher:
    """An exported network, which gives logits and its last map.

    Attributes:
      name: of the peer that was exported.
      info: the data set that it was trained on.
      tap_shapes: {"features": the map's (h, w, c)}; empty where the SavedModel has no
        signature for it.
      stages: empty; the maps of the stages are not exported.

    Args:
      path: of the SavedModel.

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


def teachers_from_flags(info: DatasetInfo) -> list[Teacher]:
    """Loads what --teacher names, frozen; see `load_teacher`."""
    return [load_teacher(path, info, _TEACHER_PEER.value) for path in _TEACHER.value]


def load_teacher(path: str, info: DatasetInfo, peer: str | None = None) -> Teacher:
    """Loads a network for inference.

    Args:
      path: a run directory, of which the last checkpoint counts, or a SavedModel.
      info: the data set that the students learn.
      peer: number or name of a run's peer; None is the largest.

    Raises:
      UserError: it is neither, or it was trained on other pictures or classes.
    """
    teacher: Peer | SavedModelTeacher
    if (Path(path) / "saved_model.pb").is_file():
        teacher = SavedModelTeacher(Path(path))
        known = teacher.info
    else:
        peers, known = load_peers(path)
        teacher = peers[_chosen(peers, peer)]
        teacher.trainable = False
    for what, own, wanted in (
        ("pictures of shape", known.image_shape, info.image_shape),
        ("classes", known.class_names, info.class_names),
    ):
        if tuple(own) != tuple(wanted):
            raise UserError(
                f"the teacher {path} was trained on {known.name}, whose {what} are not "
                f"those of {info.name}: give one that was trained on the same data."
            )
    return teacher


def _chosen(peers: Sequence[Peer], choice: str | None) -> int:
    if choice is None:
        return max(range(len(peers)), key=lambda number: peers[number].parameters)
    return choose_peer([peer.name for peer in peers], choice)
