"""Flag files, which are also found where this project is installed.

`--flagfile=flags/digits.cfg` names a file of the working directory. Where there is
none, the file of that name that ships with this project is meant, so that the
documented commands work in any directory.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from afd_tf.base.errors import UserError, nearest

_PACKAGE = Path(__file__).parents[1]
# The folder that holds flags/: the package itself in a wheel, else the checkout.
_HOME = _PACKAGE if (_PACKAGE / "flags").is_dir() else _PACKAGE.parent


def expand_flag_files(arguments: Sequence[str]) -> list[str]:
    """Puts the flags of each --flagfile in its place on the command line.

    A line of a flag file is a flag, a comment that begins with # or //, or
    --flagfile=FILE.

    Args:
      arguments: the command line without the name of the program.

    Raises:
      UserError: a file is missing, is no text, includes itself, or has a line that is
        no flag.
    """
    expanded = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in ("--flagfile", "-flagfile"):
            expanded += _read(value if equals else next(rest, ""), Path(), ())
        else:
            expanded.append(argument)
        if argument == "--":
            break
    return [*expanded, *rest]


def _read(name: str, folder: Path, including: tuple[Path, ...]) -> list[str]:
    """Returns the flags of a file and of those that it includes.

    Args:
      name: what --flagfile says.
      folder: where to look first.
      including: the files that led to this one.
    """
    path, folder = _find(name, folder)
    if path in including:
        chain = " -> ".join(map(str, (*including, path)))
        raise UserError(f"a flag file includes itself: {chain}. Remove one --flagfile.")
    expanded = []
    for number, text in enumerate(_text(path).split("\n"), start=1):
        line = text.strip()
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("-"):
            raise UserError(
                f"{path}, line {number}: expected a flag, e.g. --epochs=10, or a "
                f"comment that begins with #, not {line!r}."
            )
        directive, equals, value = line.partition("=")
        if equals and directive in ("--flagfile", "-flagfile"):
            expanded += _read(value, folder, (*including, path))
        else:
            expanded.append(line)
    return expanded


def _find(name: str, folder: Path) -> tuple[Path, Path]:
    """Returns the file that is meant, and the folder that its own includes start from.

    That folder comes first: a file of this project includes those that ship with it.
    """
    if not name:
        raise UserError("--flagfile names no file: e.g. --flagfile=flags/digits.cfg.")
    given = Path(os.path.expanduser(name))
    ours = [_HOME] if given.parts[:1] == ("flags",) else []
    for place in (folder, Path(), *ours):
        if os.path.exists(place / given):
            return place / given, place
    known = _shipped()
    nested = [each for each in known if each.count("/") > 1]
    folders = ", ".join(sorted({os.path.dirname(each) + "/" for each in nested}))
    raise UserError(
        f"there is no flag file {name}.{nearest(name, known)} afd_tf comes with "
        f"{', '.join(each for each in known if each not in nested)}, and "
        f"{len(nested)} in {folders}."
    )


def _shipped() -> list[str]:
    """Returns the flag files of this project, e.g. "flags/digits.cfg"."""
    found = (_HOME / "flags").rglob("*.cfg")
    return sorted(path.relative_to(_HOME).as_posix() for path in found)


def _text(path: Path) -> str:
    try:
        # Some editors begin a file in UTF-8 with a byte order mark.
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"cannot read the flag file {path}: {error.strerror}."
        ) from None
    except UnicodeDecodeError:
        raise UserError(
            f"the flag file {path} is not text in UTF-8: save it in that encoding."
        ) from None
