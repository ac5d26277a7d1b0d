"""JSON for files and for standard output, whatever a name holds and the locale is."""

import json
import re
import sys
from typing import Any

# Python's stand-ins for bytes of a file's name that are not UTF-8.
_SURROGATES = re.compile("[\ud800-\udfff]")


def json_text(values: Any, indent: int | None = None) -> str:
    r"""Returns values as JSON that can be written as UTF-8.

    The bytes of a file's name that are not UTF-8 are escaped, e.g. "\udcff": read
    back in Python, they give the same name.

    Args:
      values: JSON values.
      indent: see `json.dumps`.
    """
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(values: Any) -> None:
    """Prints values as one line on standard output.

    In a locale that lacks one of the characters, all but those of ASCII are escaped.

    Args:
      values: JSON values.
    """
    text = json_text(values)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(values)
    print(text)
