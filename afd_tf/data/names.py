"""Names of files and classes, which may hold any bytes, in comparisons and messages."""

import unicodedata
from collections.abc import Sequence

from afd_tf.base.console import one_line


def comparable(name: str) -> str:
    """Returns equal texts for names that differ in their Unicode normal form only.

    Archives made on macOS spell accents in two characters, those of other systems in
    one.
    """
    return unicodedata.normalize("NFC", one_line(name))


def some(names: Sequence[str], limit: int = 3) -> str:
    """Returns the first names of a list, separated by commas, for a message."""
    shown = ", ".join(one_line(name) for name in names[:limit])
    return shown + (", ..." if len(names) > limit else "")
