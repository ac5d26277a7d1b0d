"""What all methods with frozen teachers share."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from afd_tf.distill.logit import LogitDistillation
from afd_tf.distill.topology import frozen
from afd_tf.errors import UserError
from afd_tf.models import Peer, PeerOutput
from afd_tf.models.layers import adaptive_average_pooling

Teacher = Callable[..., PeerOutput]


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


def only_teacher(frozen_teachers: Sequence[Teacher], stages: bool = False) -> Peer:
    """Returns the one teacher of a method that compares maps with it.

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
    with_maps(frozen_teachers, stages)
    return frozen_teachers[0]


def with_maps(frozen_teachers: Sequence[Teacher], stages: bool = False) -> None:
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


def of_equal_size(*maps: tf.Tensor) -> list[tf.Tensor]:
    """Pools maps [B, h, w, c] of several networks to their least height and width."""
    height = min(each.shape[1] for each in maps)
    width = min(each.shape[2] for each in maps)
    return [adaptive_average_pooling(each, (height, width)) for each in maps]
