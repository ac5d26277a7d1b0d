"""Files that are written whole or not at all."""

import contextlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from afd_tf.base.errors import UserError

UNFINISHED = ".unfinished"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file that takes the place of `path` at the end of the block.

    It is written under a name of its own that ends in ".unfinished". After an error it
    is removed, and what was at `path` stays. To write several files together, enter
    their contexts in one `contextlib.ExitStack`.

    Args:
      path: the file; its directory is created if it is missing.

    Raises:
      OSError: no space or no permission.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the tempfile module, whose files no other user may read.
    work = path.with_name(f"{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        with work.open("xb") as file:
            yield file
        work.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            work.unlink()
        raise


@contextlib.contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Turns a full disk or a missing permission into a `UserError`.

    Args:
      directory: the place that the message names.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, _write_errors()):
            raise
        # TensorFlow puts the operator and the file around the reason.
        message = getattr(error, "message", str(error))
        reason = (
            getattr(error, "strerror", None)
            or (message.split("; ")[-1].partition(" [Op:")[0])
        )
        raise UserError(
            f"cannot write to {directory}: {reason}. Nothing that was there is lost: "
            "free some space or correct the permission, then give the same command."
        ) from error


def _write_errors() -> tuple[type[Exception], ...]:
    # Without TensorFlow, none of its errors can be raised.
    tensorflow = sys.modules.get("tensorflow")
    return (OSError, tensorflow.errors.OpError) if tensorflow else (OSError,)
