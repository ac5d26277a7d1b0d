"""The layout is a promise: packages in their order, commands on top, tests beside."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

from tests.build_test import file_of, imports, read_tree

ROOT = Path(__file__).absolute().parents[1]

# Left to right: a package imports from itself and from the left of it.
PACKAGES = (
    "base",
    "data",
    "models",
    "distill",
    "training",
    "artifacts",
    "analysis",
    "benchmarks",
)
# Processes of other commands that a command starts by their names.
STARTED = {("afd_tf/study.py", "afd_tf/train.py")}
# The right end: nobody imports one.
COMMANDS = (
    "analyze",
    "benchmark",
    "evaluate",
    "export",
    "predict",
    "report",
    "study",
    "train",
)
LONGEST_MODULE = 350

# Tests of the whole, which mirror no module of the product.
OVERALL = (
    "api",
    "build",
    "device",
    "flags",
    "launching",
    "layout",
    "notebooks",
    "packaging",
    "serving",
    "web",
)
# Tests of what several modules of a package do together.
JOINT = (
    "data/from_flags",
    "distill/hardware",
    "distill/methods/methods",
    "distill/replicas",
    "distill/same_step",
    "models/keras_hooks",
    "models/models",
)


def product(files: dict[str, str]) -> dict[str, str]:
    """Returns the files of the package."""
    return {path: text for path, text in files.items() if path.startswith("afd_tf/")}


def layer_problems(files: dict[str, str]) -> list[str]:
    """Returns the imports that go from left to right, to a command, or in a circle."""
    problems, graph = [], {}
    for path, text in product(files).items():
        place = path.split("/")[1].removesuffix(".py")
        is_command = path.count("/") == 1
        if place not in (COMMANDS if is_command else PACKAGES) and place != "__init__":
            problems.append(f"{path} is neither a command nor in a package")
            continue
        if place == "__init__":
            if at_import(text):
                problems.append(f"{path} imports something: it has to be fast")
            continue
        graph[path] = at_import_files(text, files) - {path}
        for other in sorted(imports(text, files)[0] - {path, "afd_tf/__init__.py"}):
            if not other.startswith("afd_tf/"):
                problems.append(f"{path} imports {other}")
                continue
            other_place = other.split("/")[1].removesuffix(".py")
            if other.count("/") == 1:
                # A worker process starts its own command by its name.
                if other != path and (path, other) not in STARTED:
                    problems.append(f"{path} imports the command {other}")
            elif not is_command and (
                PACKAGES.index(other_place) > PACKAGES.index(place)
            ):
                problems.append(f"{path} imports {other} from its right")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        problems.append(f"imports in a circle: {' -> '.join(error.args[1])}")
    return problems


def at_import(text: str) -> list[ast.stmt]:
    """Returns the imports of third parties and of the project that run at once."""
    return [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.ImportFrom | ast.Import)
        and not ast.unparse(node).startswith(("import importlib", "from typing"))
    ]


def at_import_files(text: str, files: dict[str, str]) -> set[str]:
    """Returns the project's modules that importing a module imports."""
    found = set()
    for node in at_import(text):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = file_of(f"{node.module}.{alias.name}", files)
                found.add(inner or file_of(node.module, files))
    return {path for path in found if path and path.startswith("afd_tf/")}


def test_no_module_imports_from_its_right_a_command_or_in_a_circle():
    problems = layer_problems(read_tree())
    assert not problems, "\n".join(problems)


def test_the_top_of_the_package_is_commands_and_packages():
    found = {path.split("/")[1] for path in product(read_tree())}
    commands = {f"{name}.py" for name in COMMANDS}
    assert found == {*commands, *PACKAGES, "__init__.py"}


def test_no_module_is_long():
    lengths = {path: text.count("\n") for path, text in product(read_tree()).items()}
    assert {p: n for p, n in lengths.items() if n > LONGEST_MODULE} == {}


def test_tests_mirror_the_package():
    files = read_tree()
    for path in files:
        if path.startswith("tests/") and path.endswith("_test.py"):
            name = path.removeprefix("tests/").removesuffix("_test.py")
            mirrored = f"afd_tf/{name}.py" in files
            assert mirrored or name in (*OVERALL, *JOINT), path


def flag_helps(text: str) -> list[str]:
    """Returns the help texts of the flags that a module defines."""
    helps = []
    for node in ast.walk(ast.parse(text)):
        function = ast.unparse(getattr(node, "func", ast.Constant("")))
        if function.startswith("flags.DEFINE_"):
            # Name, default, help; of enums, the values come before the help.
            position = 3 if node.func.attr == "DEFINE_enum" else 2
            argument = node.args[position]
            parts = getattr(argument, "values", [argument])
            # "..." for what is computed.
            helps.append(
                "".join(
                    part.value if isinstance(part, ast.Constant) else "..."
                    for part in parts
                )
            )
    return helps


def test_help_texts_are_sentences_that_stand_alone():
    helps = [
        text for file in product(read_tree()).values() for text in flag_helps(file)
    ]
    assert len(helps) > 80
    for text in helps:
        assert re.match(r"[A-Z0-9]", text), text
        assert text.endswith("."), text
        assert not re.match(r"(Of|For|How|What|Which|Where|That|Whether) ", text), text


def test_the_fields_words():
    for path, text in product(read_tree()).items():
        for word in ("picture", "mend it", "cannot be had", "judged", "companion"):
            assert word not in text.lower(), (path, word)


TREE = {
    "afd_tf/__init__.py": "",
    "afd_tf/base/errors.py": "import sys",
    "afd_tf/data/__init__.py": "import numpy\nfrom afd_tf.base.errors import UserError",
    "afd_tf/models/peer.py": "def f():\n    from afd_tf import data",
    "afd_tf/train.py": "import afd_tf.models.peer",
}


def test_a_sound_tree_has_no_problems():
    assert layer_problems(TREE) == []


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("afd_tf/data/x.py", "from afd_tf.models import peer", "from its right"),
        ("afd_tf/base/y.py", "def f():\n    import afd_tf.data", "from its right"),
        ("afd_tf/models/y.py", "import afd_tf.train", "imports the command"),
        ("afd_tf/export.py", "from afd_tf import train", "imports the command"),
        ("afd_tf/extra.py", "", "neither a command nor in a package"),
        ("afd_tf/extra/x.py", "", "neither a command nor in a package"),
        ("afd_tf/base/errors.py", "import tests.train_test", "imports tests/"),
        ("afd_tf/__init__.py", "import numpy", "has to be fast"),
        ("afd_tf/base/errors.py", "from afd_tf.base import errors, x", "in a circle"),
    ],
)
def test_a_wrong_import_is_found(path, text, problem):
    others = {
        "afd_tf/base/x.py": "from afd_tf.base import errors",
        "tests/train_test.py": "",
    }
    found = layer_problems({**TREE, **others, path: text})
    assert any(problem in line for line in found), found
