"""The choice of one of a run's checkpoints, by flag."""

from absl import flags

from afd_tf.base.errors import unknown_name
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


def checkpoint_from_flags() -> str:
    """Returns --checkpoint: "auto", "last" or "best".

    Raises:
      UserError: it is none of these.
    """
    check_checkpoint(_CHECKPOINT.value)
    return _CHECKPOINT.value


def check_checkpoint(name: str) -> None:
    """Refuses anything but "auto", "last" and "best".

    Raises:
      UserError: it is none of these.
    """
    if name not in (known := ("auto", *KINDS)):
        raise unknown_name("checkpoint", name, known)
