"""Names that stand in a line."""

import pytest

from afd_tf.base.console import one_line


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Hündin 猫 🐱", "Hündin 猫 🐱"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\x1b[31mb\x00", r"a\x1b[31mb\x00"),
        ("a\x85b\u2028c\u2029d\x0b\x0c\x1c", r"a\x85b\u2028c\u2029d\x0b\x0c\x1c"),
        ("\udcff", r"\udcff"),
        # Spaces of any width are letters of a name, unless there is nothing else.
        ("a\u3000b ", "a\u3000b "),
        ("  ", r"\x20\x20"),
        ("\u3000\n", r"\u3000\n"),
        ("", ""),
        (r"back\slash", r"back\slash"),
    ],
)
def test_a_name_is_one_line(name, shown):
    assert one_line(name) == shown
    assert len(one_line(name).splitlines()) <= 1
