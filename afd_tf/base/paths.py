"""Paths as people give them to flags and functions."""

import errno
import os
from pathlib import Path

from afd_tf.base.errors import UserError

# Errors that no later use of the path can get around.
_IMPOSSIBLE = (errno.ENAMETOOLONG, errno.ELOOP)
_SHOWN_LETTERS = 80


def expanded(path: str | os.PathLike, any_bytes: bool = False) -> Path:
    """Returns a path with `~` expanded, as a shell does it at the start of a word.

    The shell leaves `--run_dir=~/x` alone, so that this is left to the program.

    Args:
      path: with or without `~` or `~user` at its beginning; nothing has to be there.
      any_bytes: whether it may hold bytes that are not UTF-8, at which TensorFlow
        fails, but neither Python nor Pillow.

    Raises:
      UserError: there is no such user, or no file can have this path.
    """
    text = os.fspath(path)
    shown = text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}..."
    result = os.path.expanduser(text)
    if result.startswith("~"):
        user = text.partition("/")[0]
        raise UserError(
            f"the path {shown} begins with {user}, but the home of that user is not "
            f"known: write it out, or ./{user} if a folder has that name."
        )
    try:
        os.stat(result)
    except ValueError:  # A null character.
        raise UserError(
            f"the path {shown!r} holds a character that no path may hold: remove it."
        ) from None
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            raise UserError(
                f"the path {shown} cannot be used: {error.strerror}. Give another one."
            ) from error
    if not any_bytes and result != result.encode("utf-8", "replace").decode("utf-8"):
        raise UserError(
            f"the path {shown!r} holds bytes that are not UTF-8, which TensorFlow "
            "cannot open: rename it, or give the path of a link to it."
        )
    return Path(result)


def same_path(first: str | os.PathLike, second: str | os.PathLike) -> bool:
    """Returns whether two paths name one place.

    Relative and absolute forms, a slash at the end, `.`, `~` and links do not matter.
    """
    return _canonical(first) == _canonical(second)


def _canonical(path: str | os.PathLike) -> str:
    return os.path.realpath(os.path.expanduser(os.fspath(path)))
