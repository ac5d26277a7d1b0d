"""JSON that any locale can print and that keeps names of any bytes."""

import io
import json
import os
import sys

import pytest

from afd_tf.base.json_text import json_text, print_json

NAME = os.fsdecode(b"caf\xe9 \xf0\x9f\x90\xb1 a\nb\t")
VALUES = {"file": NAME, "classes": ["Hündin", "猫"]}


def test_names_of_any_bytes_survive():
    text = json_text(VALUES, indent=1)
    read = json.loads(text.encode("utf-8"))
    assert read == VALUES
    assert os.fsencode(read["file"]) == b"caf\xe9 \xf0\x9f\x90\xb1 a\nb\t"
    assert "猫" in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_one_line_in_every_encoding(encoding, monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding))
    print_json(VALUES)
    sys.stdout.flush()
    text = file.getvalue().decode(encoding)
    assert text.count("\n") == 1
    assert json.loads(text) == VALUES
    # As they are, where that is possible.
    assert ("猫" in text) == (encoding == "utf-8")
