"""The wheel: built, installed and used outside the checkout, without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn import datasets

import afd_tf

ROOT = Path(__file__).absolute().parents[1]
# All that a wheel is made of.
SOURCES = ("afd_tf", "flags", "pyproject.toml", "setup.cfg", "README.md", "LICENSE")
EPOCHS = 1


def run(*command, cwd):
    """Runs a command that sees no package through the environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "TF_CONFIG")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for path in (*map(ROOT.joinpath, SOURCES), *ROOT.glob("requirements*.txt")):
        if path.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / path.name, ignore=ignore)
        else:
            shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    run(*pip, "--no-build-isolation", f"--wheel-dir={folder}", source, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python that has the wheel, and all else from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, f"--target={packages}", wheel, cwd=folder)
    ours = [
        path for path in sys.path if path and Path(path).resolve() != ROOT.resolve()
    ]
    (packages / "outer.pth").write_text("\n".join(ours))
    return folder / "bin" / "python"


def metadata(wheel, name):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [x for x in archive.namelist() if x.endswith(f".dist-info/{name}")]
        return archive.read(path).decode()


def test_the_wheel_holds_the_package_and_the_flag_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    # The template of `report` is read beside its module.
    modules = {
        path.relative_to(ROOT)
        for pattern in ("*.py", "*.jinja")
        for path in (ROOT / "afd_tf").rglob(pattern)
    }
    configs = {path.relative_to(ROOT) for path in (ROOT / "flags").rglob("*.cfg")}
    expected = modules | {Path("afd_tf") / path for path in configs}
    assert held == {path.as_posix() for path in expected}
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")


def test_the_wheel_needs_what_the_requirements_say(wheel):
    def lines(name):
        text = (ROOT / f"requirements{name}.txt").read_text().splitlines()
        return [line for line in text if line and not line.startswith("#")]

    def canonical(requirement, extra=None):
        """Returns a requirement with its parts in an order of their own."""
        requirement = requirement.replace("'", '"')
        needed, _, marker = requirement.partition(";")
        needed = re.sub(r"\s", "", needed)
        name = re.match(r"[\w.-]+", needed)[0]
        markers = {re.sub(r"\s", "", x) for x in re.split(r"\band\b", marker)} - {""}
        markers |= {f'extra=="{extra}"'} if extra else set()
        versions = frozenset(needed.removeprefix(name).split(","))
        return name, versions, frozenset(markers)

    text = metadata(wheel, "METADATA")
    declared = {canonical(x) for x in re.findall(r"^Requires-Dist: (.*)$", text, re.M)}
    # What requirements-dev.txt includes is the extra "dev", but for the product's own.
    included = [line.removeprefix("-r requirements") for line in lines("-dev")]
    included = [name.removesuffix(".txt") for name in included]
    assert included[0] == ""
    single = ("serving", "onnx", "openvino", "pretrained", "hub")
    extras = {**{name: [f"-{name}"] for name in single}, "dev": included[1:]}
    expected = {canonical(line) for line in lines("")}
    for extra, names in extras.items():
        expected |= {canonical(line, extra) for x in names for line in lines(x)}
    assert declared == expected
    assert set(re.findall(r"^Provides-Extra: (.*)$", text, re.M)) == extras.keys()
    supported = re.search(
        r"Python 3\.(\d+) to 3\.(\d+)", (ROOT / "README.md").read_text()
    )
    oldest, newest = map(int, supported.groups())
    (versions,) = re.findall(r"^Requires-Python: (.*)$", text, re.M)
    assert set(versions.split(",")) == {f">=3.{oldest}", f"<3.{newest + 1}"}
    classifiers = re.findall(r"^Classifier: .* :: 3\.(\d+)$", text, re.M)
    assert [int(x) for x in classifiers] == list(range(oldest, newest + 1))


def test_the_version_is_the_same_everywhere(wheel, python, tmp_path):
    versions = {
        "package": afd_tf.__version__,
        "metadata": re.search(r"^Version: (.*)$", metadata(wheel, "METADATA"), re.M)[1],
        "CITATION.cff": yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"],
        # The newest one that is not called "Unreleased".
        "CHANGELOG.md": re.search(
            r"^## \[?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.M
        )[1],
        "installed": run(
            *(python, "-c"),
            "import importlib.metadata as m; print(m.version('afd_tf'))",
            cwd=tmp_path,
        ).strip(),
    }
    assert len(set(versions.values())) == 1, versions


def test_the_wheel_trains_exports_and_predicts_in_any_folder(python, tmp_path):
    program = "import afd_tf, afd_tf.base.flag_files as f; print(f.__file__)"
    module = Path(run(python, "-c", program, cwd=tmp_path).strip())
    assert module.is_relative_to(python.parents[1])
    assert list(tmp_path.iterdir()) == []

    output = run(
        *(python, "-m", "afd_tf.train", "--flagfile=flags/digits.cfg"),
        *("--peers=resnet8,resnet8", f"--epochs={EPOCHS}"),
        *("--export_dir=models", "--cache_dir=cache"),
        cwd=tmp_path,
    )
    summary = json.loads(output.splitlines()[-1])
    assert summary["epochs"] == EPOCHS
    (run_dir,) = (tmp_path / "runs").iterdir()
    flags = (run_dir / "flags.cfg").read_text().splitlines()
    expected = {"--peers=resnet8,resnet8", "--batch_size=64", f"--epochs={EPOCHS}"}
    assert expected <= set(flags)
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["afd_tf"] == afd_tf.__version__
    manifest = json.loads((tmp_path / "models" / "1" / "manifest.json").read_text())
    assert manifest["versions"]["afd_tf"] == afd_tf.__version__

    digits = datasets.load_digits()
    names = [f"{number}.png" for number in range(20)]
    for name, pixels in zip(names, digits.images, strict=False):
        grey = (pixels * 15.9375).round().astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / name)
    output = run(
        *(python, "-m", "afd_tf.predict", "--artifact=models/1/model.tflite"),
        *names,
        cwd=tmp_path,
    )
    answer = json.loads(output.splitlines()[-1])
    assert [each["file"] for each in answer["predictions"]] == names
    for each in answer["predictions"]:
        total = sum(found["probability"] for found in each["classes"])
        assert 0.5 < total < 1.001
    # After one epoch: well above the 2 of 20 that guessing gives.
    right = [
        each["classes"][0]["label"] == target
        for each, target in zip(answer["predictions"], digits.target, strict=False)
    ]
    assert sum(right) >= 8, right
