"""The reading of every file of a data set, once: facts about images, and bad files."""

import os
from collections.abc import Sequence

from afd_tf.base.console import one_line, progress, say
from afd_tf.base.errors import UserError
from afd_tf.data import image_file
from afd_tf.data.cache import Cache
from afd_tf.data.foreign_files import describe_error
from afd_tf.data.image_file import ImageFile
from afd_tf.data.threads import map_in_threads

_LISTED = 20

# Raised when `ImageFile` or what `inspect` finds changes.
_VERSION = 1

Problem = tuple[str, str]  # a path, and the rest of the sentence about it


def scan(
    root: str, paths: Sequence[str], cache: Cache
) -> tuple[dict[str, ImageFile], list[Problem]]:
    """Reads all files that are not in the cache with their size and time of change.

    Args:
      root: the folder that paths are relative to.
      paths: of the files.
      cache: keeps the facts, but not the problems, which a repair or a new package
        may have solved.

    Returns:
      the facts by path, and the problems of the other files.
    """
    key = {"scan": root, "version": _VERSION}
    known = cache.value(key, dict)
    stamps, facts, problems = {}, {}, []
    for path in paths:
        try:
            status = os.stat(os.path.join(root, path))
        except OSError as error:
            reason = describe_error(error, os.path.join(root, path))
            problems.append((path, one_line(reason)))
            continue
        stamps[path] = [status.st_size, status.st_mtime_ns]
        before = known.get(path)
        if before and before[:2] == stamps[path]:
            facts[path] = ImageFile(path, 0, *before[2:])
    unknown = [path for path in stamps if path not in facts]
    with progress("reading all images", len(unknown)) as bar:
        results = map_in_threads(lambda path: _inspect(root, path), unknown)
        for path, result in zip(unknown, results, strict=True):
            bar.update()
            if isinstance(result, ImageFile):
                facts[path] = result
            else:
                problems.append((path, result))
    if unknown or len(facts) < len(known):
        cache.replace_value(
            key, {path: [*stamps[path], *fact[2:]] for path, fact in facts.items()}
        )
    return facts, problems


def _inspect(root: str, path: str) -> ImageFile | str:
    """Returns the facts about an image, or the rest of the sentence "FILE ..."."""
    place = os.path.join(root, path)
    try:
        with open(place, "rb") as file:
            content = file.read()
        return image_file.inspect(content, path=path, name="")
    except OSError as error:
        return one_line(describe_error(error, place))
    except UserError as error:
        return str(error).strip()


def report_problems(
    problems: Sequence[Problem], *, skip: bool, name: str, root: str, cache: Cache
) -> None:
    """Says which files cannot be used: the first twenty, and a file with all.

    Args:
      problems: path and description of each.
      skip: whether to go on without them.
      name: the data set's name in messages.
      root: the folder that the paths are relative to.
      cache: takes the file with all.

    Raises:
      UserError: there are problems, and `skip` is false.
    """
    if not problems:
        return
    lines = [
        f"{one_line(os.path.join(root, path))} {what}"
        for path, what in sorted(problems)
    ]
    if len(lines) == 1 and not skip:
        raise UserError(f"{lines[0]} Or go on without it: --skip_bad_images.")
    content = "".join(f"{line}\n" for line in lines).encode("utf-8")
    everything = cache.file(
        {"bad_images": root}, ".txt", lambda file: file.write(content), again=True
    )
    more = f"\n  ... and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    listed = "".join(f"\n  {line}" for line in lines[:_LISTED]) + more
    where = f"\nAll of them are listed in {everything}." if everything else ""
    if skip:
        say(
            f"{len(lines)} files of {one_line(name)} cannot be used and are left "
            f"out (--skip_bad_images):{listed}{where}"
        )
        return
    raise UserError(
        f"{len(lines)} files of {one_line(name)} cannot be used; remove or repair "
        f"them, or go on without them: --skip_bad_images.{listed}{where}"
    )
