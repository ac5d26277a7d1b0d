"""Flag files in the working directory, and those that ship with the project."""

import subprocess
import sys
from pathlib import Path

import pytest

from afd_tf.base import flag_files
from afd_tf.base.errors import UserError
from afd_tf.base.flag_files import expand_flag_files

ROOT = Path(__file__).parents[2]


def flags_of(path):
    """Returns the lines of a flag file without comments."""
    lines = path.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_takes_the_place_of_its_flag(folder):
    (folder / "a.cfg").write_text(
        "# --seed=9\n// --seed=8\n\n  --epochs=2  \n--flagfile=b.cfg\n--nodownload\n"
    )
    (folder / "b.cfg").write_text("--name=with spaces=and more")
    inner = ["--epochs=2", "--name=with spaces=and more", "--nodownload"]
    for flag in (
        ["--flagfile=a.cfg"],
        ["--flagfile", "a.cfg"],
        ["-flagfile=a.cfg"],
        [f"--flagfile={folder / 'a.cfg'}"],
    ):
        expanded = expand_flag_files(["step", "--seed=1", *flag, "--seed=2"])
        assert expanded == ["step", "--seed=1", *inner, "--seed=2"]
    rest = ["--", "--flagfile=a.cfg", "b.png"]
    assert expand_flag_files(["--seed=1", *rest]) == ["--seed=1", *rest]
    # Twice is no circle.
    assert expand_flag_files(["--flagfile=a.cfg"] * 2) == inner * 2


def test_files_that_ship_are_found_in_any_directory():
    digits = flags_of(ROOT / "flags" / "digits.cfg")
    assert expand_flag_files(["--flagfile=flags/digits.cfg"]) == digits
    # With those that they include.
    nested = expand_flag_files(["--flagfile=flags/cifar_small_large.cfg"])
    assert not any("flagfile" in flag for flag in nested)
    assert set(flags_of(ROOT / "flags" / "cifar_recipe.cfg")) < set(nested)
    assert nested[-1] == flags_of(ROOT / "flags" / "cifar_small_large.cfg")[-1]


def test_the_working_directory_comes_first(folder):
    (folder / "flags").mkdir()
    (folder / "flags" / "digits.cfg").write_text("--epochs=1")
    assert expand_flag_files(["--flagfile=flags/digits.cfg"]) == ["--epochs=1"]
    # Yet a file that ships includes what it was written for, and one of the working
    # directory may include one that ships.
    (folder / "flags" / "cifar_recipe.cfg").write_text("--epochs=1")
    shipped = expand_flag_files(["--flagfile=flags/cifar.cfg"])
    assert set(flags_of(ROOT / "flags" / "cifar_recipe.cfg")) < set(shipped)
    (folder / "own.cfg").write_text("--flagfile=flags/cifar.cfg\n--seed=3")
    assert expand_flag_files(["--flagfile=own.cfg"]) == [*shipped, "--seed=3"]


def test_only_flags_are_looked_for_beside_the_package():
    assert (ROOT / "README.md").exists()
    with pytest.raises(UserError, match=r"there is no flag file README\.md"):
        expand_flag_files(["--flagfile=README.md"])


def test_a_byte_order_mark_is_read_over(folder):
    (folder / "a.cfg").write_bytes(b"\xef\xbb\xbf--epochs=2\r\n--seed=1\r\n")
    assert expand_flag_files(["--flagfile=a.cfg"]) == ["--epochs=2", "--seed=1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"--epochs=2\nseed=1\n", r"a\.cfg, line 2: expected a flag.* not 'seed=1'"),
        ("--seed=1".encode("utf-16"), "a.cfg is not text in UTF-8"),
        (b"--flagfile=a.cfg", "includes itself: a.cfg -> a.cfg"),
        (b"--flagfile=b.cfg", "there is no flag file b.cfg"),
        (b"--flagfile=\0", "there is no flag file"),
        (b"--flagfile=", "names no file"),
        (None, "cannot read the flag file a.cfg: Is a directory"),
    ],
)
def test_a_file_that_is_none(content, message, folder):
    if content is None:
        (folder / "a.cfg").mkdir()
    else:
        (folder / "a.cfg").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        expand_flag_files(["--flagfile=a.cfg"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", ".", "~nobody/a.cfg", "x" * 5000])
def test_names_that_are_no_files(name):
    with pytest.raises(UserError):
        expand_flag_files([f"--flagfile={name}"])


def test_a_missing_file_is_answered_with_those_that_ship():
    with pytest.raises(UserError) as error:
        expand_flag_files(["--flagfile=flags/digit.cfg"])
    message = str(error.value)
    assert "no flag file flags/digit.cfg. Did you mean 'flags/digits.cfg'?" in message
    for path in (ROOT / "flags").glob("*.cfg"):
        assert f"flags/{path.name}" in message
    number = len(list((ROOT / "flags").glob("*/*.cfg")))
    folders = "flags/recipe/, flags/study/, flags/table/"
    assert message.endswith(f"and {number} in {folders}.")
    with pytest.raises(UserError, match="Did you mean 'flags/table/resnet32_dml"):
        expand_flag_files(["--flagfile=flags/resnet32_dml.cfg"])


def test_a_command_says_it_in_one_line():
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from afd_tf.base import command_line\n"
        "command_line.run(lambda argv: print(argv))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "--flagfile=flags/digit.cfg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: there is no flag file flags/digit.cfg.")
    assert result.stderr.count("\n") == 1


def test_flags_of_a_wheel_are_in_the_package(folder, monkeypatch):
    (folder / "package" / "flags").mkdir(parents=True)
    (folder / "package" / "flags" / "only.cfg").write_text("--seed=5")
    monkeypatch.setattr(flag_files, "_HOME", folder / "package")
    assert expand_flag_files(["--flagfile=flags/only.cfg"]) == ["--seed=5"]
