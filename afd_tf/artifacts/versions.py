"""Numbered versions of an artifact, which appear whole or not at all."""

import contextlib
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from afd_tf.base.files import UNFINISHED, writing_to

# A killed export leaves such a directory behind. After so many seconds, no export is
# still working on it.
_UNFINISHED_VERSION = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(UNFINISHED)}")
_ABANDONED_AFTER = 24 * 3600


@contextlib.contextmanager
def unfinished_version(export_dir: Path) -> Iterator[Path]:
    """Yields a new, hidden directory, to be renamed with `rename_to_next_version`.

    A server that watches `export_dir` does not see it. After an error it is removed,
    together with the directories above it that were created for it.

    Args:
      export_dir: the directory that holds the versions; created if it is missing.

    Raises:
      UserError: no space or no permission.
    """
    missing = [path for path in (export_dir, *export_dir.parents) if not path.exists()]
    # Not tempfile.mkdtemp, whose directories only their owner may read: not a server.
    work = export_dir / f".{uuid.uuid4().hex}{UNFINISHED}"
    try:
        with writing_to(export_dir):
            remove_abandoned(export_dir)
            work.mkdir(parents=True)
        yield work
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def remove_abandoned(export_dir: Path) -> None:
    """Removes the directories that killed exports have left behind."""
    if not export_dir.is_dir():
        return
    for path in export_dir.iterdir():
        if _UNFINISHED_VERSION.fullmatch(path.name):
            # Another export may remove it, or rename its own, at the same time.
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                    shutil.rmtree(path)


def rename_to_next_version(work: Path, export_dir: Path) -> Path:
    """Renames a finished version to the number after the highest one.

    Args:
      work: see `unfinished_version`.
      export_dir: the directory that holds the versions.

    Returns:
      the path of the new version.

    Raises:
      OSError: no space or no permission.
    """
    while True:
        versions = [
            int(path.name) for path in export_dir.iterdir() if path.name.isdecimal()
        ]
        target = export_dir / str(max(versions, default=0) + 1)
        try:
            return work.rename(target)
        except OSError:
            # Another export may have taken the number in the meantime.
            if not target.exists():
                raise
