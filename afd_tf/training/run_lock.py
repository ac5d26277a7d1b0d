"""The lock of a run directory: one training at a time."""

import contextlib
import datetime
import errno
import json
import os
import socket
from pathlib import Path
from typing import TextIO

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.base.files import writing_to

LOCK = ".lock"

# File systems without locks; a training there is not protected, but possible.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def lock_run(directory: Path) -> TextIO | None:
    """Takes the lock of a run directory for this process.

    The system gives it back when the process ends, however that is: the lock of a dead
    process holds nobody.

    Args:
      directory: the run directory; it is created if it is missing.

    Returns:
      the open file that holds the lock while it lives, or None on a system without
      locks.

    Raises:
      UserError: another process has it, or the directory cannot be written to.
    """
    try:
        import fcntl
    except ImportError:
        return None
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        with file:
            raise UserError(
                f"{directory} is in use{_holder(file)}: wait until that training has "
                "ended, stop it, or give another --run_dir."
            ) from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        say(f"{directory} cannot be locked: let no other training use it.")
        file.close()
        return None
    with writing_to(directory):
        file.truncate(0)
        json.dump(
            {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.datetime.now().astimezone().isoformat("T", "seconds"),
            },
            file,
        )
        file.flush()
    return file


def _holder(file: TextIO) -> str:
    """Returns who holds the lock, as far as the file says it."""
    with contextlib.suppress(ValueError, KeyError):
        file.seek(0)
        found = json.load(file)
        return (
            f" by process {found['process']} on {found['host']} since {found['since']}"
        )
    return " by another process"
