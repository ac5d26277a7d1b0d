"""Messages and progress bars on stderr."""

import sys
import unicodedata

from tqdm import tqdm

# Control characters, line and paragraph separators, and bytes that are not UTF-8.
_NOT_PRINTED = ("Cc", "Zl", "Zp", "Cs")


def say(message: str) -> None:
    """Prints a line on stderr, above a progress bar if there is one."""
    tqdm.write(message, file=sys.stderr)


def progress(description: str, total: int, initial: int = 0) -> tqdm:
    """Returns a bar with images/s and time left; silent if stderr is no terminal."""
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit=" images",
        unit_scale=True,
        leave=False,
        disable=None,
    )


def one_line(name: str) -> str:
    r"""Returns a name as it can stand in a line of a table or of a file.

    Line breaks, other control characters and bytes that are not UTF-8 are escaped as
    in Python, e.g. \n; so is a name of blanks alone, which readers take for no line.
    """
    if not name.strip():
        return "".join(_escaped(letter) for letter in name)
    return "".join(
        _escaped(letter) if unicodedata.category(letter) in _NOT_PRINTED else letter
        for letter in name
    )


def _escaped(letter: str) -> str:
    if letter == " ":
        return r"\x20"
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
