"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from afd_tf.base.errors import UserError

UNFINISHED = ".unfinished"

# What can be done about an error of the system.
_ADVICE = {
    ("ENOSPC", "EDQUOT"): "free some space, then give the same command",
    ("EACCES", "EPERM", "EROFS"): "correct the permission, or give another directory",
    ("ENAMETOOLONG",): "give a shorter path",
    ("ENOTDIR", "EEXIST", "EISDIR"): "a file or a directory of that name is in the "
    "way: move it, or give another directory",
    ("ELOOP",): "remove the link that leads to itself, or give another directory",
}
_OTHER_ADVICE = "correct that, then give the same command"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file that takes the place of `path` at the end of the block.

    It is written under a name of its own that ends in ".unfinished". After an error it
    is removed, and what was at `path` stays. `write_together` writes several.

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
            f"{_advice(reason)}."
        ) from error


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files: all of them, or none.

    Args:
      contents: of each file.

    Raises:
      UserError: no space, or no permission.
    """
    with contextlib.ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(writing_to(path.parent))
            file = stack.enter_context(replacing(path))
            file.write(content)
            # A full disk shows here, before the first file is replaced.
            file.flush()


def check_writable(directory: Path) -> None:
    """Tries whether a directory can be written to, and leaves no trace.

    A command calls it before hours of work whose result is written there.

    Args:
      directory: where it is missing, that it can be created is what counts.

    Raises:
      UserError: no space, no permission, or a file is in the way.
    """
    with writing_to(directory):
        place = directory
        # `lexists`: a link that leads nowhere is in the way, too.
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if not place.is_dir():
            reason = f"{os.strerror(errno.ENOTDIR)}: {str(place)!r}"
            raise NotADirectoryError(errno.ENOTDIR, reason)
        trial = place / f".{uuid.uuid4().hex}{UNFINISHED}"
        trial.mkdir()
        trial.rmdir()


def _advice(reason: str) -> str:
    """Returns what to do about an error whose text is `reason`."""
    for names, advice in _ADVICE.items():
        # The names that this system knows.
        codes = [getattr(errno, name) for name in names if hasattr(errno, name)]
        if any(os.strerror(code) in reason for code in codes):
            return advice
    return _OTHER_ADVICE


def _write_errors() -> tuple[type[Exception], ...]:
    # Without TensorFlow, none of its errors can be raised.
    tensorflow = sys.modules.get("tensorflow")
    return (OSError, tensorflow.errors.OpError) if tensorflow else (OSError,)
