"""Distillation from frozen teachers: networks that were trained before."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import tensorflow as tf
from absl import flags

from afd_tf.base.errors import UserError
from afd_tf.distill.logit_distillation import LogitDistillation
from afd_tf.distill.topology import frozen
from afd_tf.models import Peer, PeerOutput

_TEACHER = flags.DEFINE_list(
    "teacher",
    [],
    "The trained network that offline methods learn from: a run directory, a "
    "SavedModel, or a pretrained network by a name as in --peers; some methods take "
    "several, with commas between them.",
)
_TEACHER_PEER = flags.DEFINE_string(
    "teacher_peer",
    None,
    "The peer of the teacher's run to learn from, by its number (from 0) or name. "
    "Default: the one with the most parameters.",
)


class Teacher(Protocol):
    """A trained network: a `Peer`, or one with fewer maps.

    Attributes:
      name: of the network.
      tap_shapes: (h, w, c) of each map by its name; empty if it gives logits alone.
      stages: names of the maps of its stages, first to last; empty if it gives none.
      feature_shape: (h, w, c) of its last map.
    """

    name: str
    tap_shapes: Mapping[str, tuple[int, int, int]]
    stages: Sequence[str]
    feature_shape: tuple[int, int, int]

    def __call__(self, images: tf.Tensor, training: bool = False) -> PeerOutput:
        """Runs the network on raw pixels, uint8 [B, h, w, c]."""


class OfflineDistillation(LogitDistillation):
    """Students that each learn from all frozen teachers.

    Args:
      peers: the students; they learn nothing from each other.
      frozen_teachers: one or more.
      **kwargs: of `LogitDistillation`.
    """

    def __init__(
        self, peers: Sequence[Peer], frozen_teachers: Sequence[Teacher], **kwargs
    ):
        super().__init__(
            peers,
            teachers=frozen(len(peers), len(frozen_teachers)),
            frozen_teachers=frozen_teachers,
            **kwargs,
        )


def single_teacher(frozen_teachers: Sequence[Teacher], stages: bool = False) -> Teacher:
    """Returns the teacher of a method that takes one and compares maps with it.

    Args:
      frozen_teachers: those that were given.
      stages: whether the method needs the maps of the stages, and not the last alone.

    Raises:
      UserError: there are several, or it lacks the maps.
    """
    if len(frozen_teachers) > 1:
        raise UserError(
            f"this method takes one teacher, not {len(frozen_teachers)}: name one in "
            "--teacher, or take --method=kd or meal."
        )
    require_maps(frozen_teachers, stages)
    return frozen_teachers[0]


def require_maps(frozen_teachers: Sequence[Teacher], stages: bool = False) -> None:
    """Refuses teachers that lack maps.

    Args:
      frozen_teachers: those that were given.
      stages: whether the maps of the stages are needed, and not the last alone.

    Raises:
      UserError: one gives logits only, or no maps of stages.
    """
    for teacher in frozen_teachers:
        if not teacher.tap_shapes:
            raise UserError(
                f"{teacher.name} is a SavedModel, which gives logits but no feature "
                "maps: give its run directory as --teacher, or take --method=kd."
            )
        if stages and not teacher.stages:
            raise UserError(
                f"{teacher.name} is a SavedModel, which gives its last feature map but "
                "not those of its stages: give its run directory as --teacher, or take "
                "--method=kd or afd_offline."
            )


def teacher_paths_from_flags() -> tuple[list[str], str | None]:
    """Returns the paths that --teacher names, and --teacher_peer."""
    return _TEACHER.value, _TEACHER_PEER.value
