"""The one exception for user mistakes."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can correct: what was given, what was expected, what to do.

    A command prints its text as one line on stderr and exits with code 1.
    """


def nearest(given: str, known: Iterable[str]) -> str:
    """Returns " Did you mean '...'?" for the likeliest of `known`, or ""."""
    matches = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is in no table, with its nearest match.

    Args:
      kind: the word for such a name, e.g. "peer".
      given: the unknown name.
      known: all known names.
    """
    known = list(known)
    return UserError(
        f"unknown {kind} {given!r}.{nearest(given, known)} Known: {', '.join(known)}."
    )
