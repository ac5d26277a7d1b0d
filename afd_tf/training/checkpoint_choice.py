"""The choice of one of a run's checkpoints, by flag."""

from absl import flags

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.base.run_flags import operational

_CHECKPOINT = operational(
    flags.DEFINE_string(
        "checkpoint",
        "auto",
        "The checkpoint of a run to evaluate, export or analyze: last, best (on the "
        "validation images), or auto, which is best where there is one and else last.",
    )
)

# Kind of a checkpoint → beginning of the names of such directories.
KINDS = {"last": "step", "best": "best"}


def checkpoint_from_flags(validation_images: int | None = None) -> str:
    """Returns --checkpoint: "auto", "last" or "best".

    Args:
      validation_images: of a run that is still to come, if the checkpoint is its.

    Raises:
      UserError: it is none of these, or the run will have no best one.
    """
    check_checkpoint(_CHECKPOINT.value)
    if _CHECKPOINT.value == "best" and validation_images == 0:
        raise UserError(
            "--checkpoint=best is chosen on validation images, and there are none: "
            "give --validation_examples=N too, or --checkpoint=last."
        )
    return _CHECKPOINT.value


def check_checkpoint(name: str) -> None:
    """Refuses anything but "auto", "last" and "best".

    Raises:
      UserError: it is none of these.
    """
    if name not in (known := ("auto", *KINDS)):
        raise unknown_name("checkpoint", name, known)
