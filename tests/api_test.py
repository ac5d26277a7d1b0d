"""The Python API: light to import, typed, and its examples run as they stand."""

import ast
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import afd_tf

ROOT = Path(__file__).absolute().parents[1]


def run(program: str, directory: Path) -> str:
    """Runs a program that sees nothing of the tests, and returns its stdout."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_importing_it_brings_nothing_else(tmp_path):
    program = """
import sys
before = set(sys.modules)
import afd_tf
dir(afd_tf)
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    brought = set(run(program, tmp_path).split())
    assert brought - set(sys.stdlib_module_names) == {"afd_tf"}


def test_the_examples_of_the_docstring_and_of_the_readme(tmp_path):
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    for text, shorter in (("epochs=20", "epochs=1"), ('"resnet20"', '"resnet8"')):
        assert block.count(text) == 1
        block = block.replace(text, shorter)
    program = f"import doctest, afd_tf\nprint(doctest.testmod(afd_tf))\n{block}"
    docstring, *_, classes = run(program, tmp_path).splitlines()
    assert docstring == "TestResults(failed=0, attempted=11)"
    assert re.fullmatch(r"\[(\d ){7}\d\]", classes)
    for version in ("1", "2"):
        exported = tmp_path / "savedmodels" / "digits" / version
        assert (exported / "model.tflite").is_file()


def test_every_name_is_there_and_typed():
    assert set(afd_tf.__all__) == set(afd_tf._API)
    assert set(afd_tf.__all__) <= set(dir(afd_tf))
    for name in afd_tf.__all__:
        value = getattr(afd_tf, name)
        assert not isinstance(value, type(os)), name
        if callable(value) and not isinstance(value, type):
            assert typing.get_type_hints(value), name
    # What a type checker sees is what `__getattr__` gives.
    (block,) = (
        node
        for node in ast.parse((ROOT / "afd_tf" / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    )
    declared = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        for alias in node.names
    }
    assert declared == afd_tf._API


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        afd_tf.laod  # noqa: B018
