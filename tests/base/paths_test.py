"""Paths of flags: `~` as in a shell, and those that no file can have."""

import os
from pathlib import Path

import pytest

from afd_tf.base.errors import UserError
from afd_tf.base.paths import expanded, same_path


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_home_directory_is_expanded_at_the_beginning_only(home):
    assert expanded("~/runs/x") == home / "runs/x"
    assert expanded("~") == home
    assert expanded(Path("~") / "x") == home / "x"
    for path in ("runs/x", "/a/b", "./~", "a~", "a/~/b", "$HOME", "*"):
        assert expanded(path) == Path(path)
    assert os.listdir(home) == []


def test_an_unknown_home_is_refused():
    with pytest.raises(UserError, match=r"~nobody-here.* or \./~nobody-here if"):
        expanded("~nobody-here/x")


def test_paths_that_no_file_can_have_are_refused_in_one_line(home):
    (home / "loop").symlink_to("loop")
    for path, message in (
        ("a" * 300, "File name too long"),
        ("a/" * 5000, "File name too long"),
        ("loop/x", "Too many levels"),
        ("a\0b", "character that no path may hold"),
    ):
        with pytest.raises(UserError, match=message) as error:
            expanded(path)
        assert len(str(error.value)) < 250
        assert "\n" not in str(error.value)


def test_bytes_that_tensorflow_cannot_open_are_refused():
    path = os.fsdecode(b"caf\xe9")
    assert expanded(path, any_bytes=True) == Path(path)
    with pytest.raises(UserError, match=r"'caf\\udce9' holds bytes that are not UTF-8"):
        expanded(path)
    assert expanded("café") == Path("café")


def test_one_place_by_many_names(home):
    (home / "x").mkdir()
    (home / "link").symlink_to("x")
    forms = ("x", "x/", "./x", "x/.", "link", "x/../x", str(home / "x"), "~/x")
    for form in forms:
        assert same_path(form, "x")
        assert not same_path(form, "y")
    # Nothing has to be there.
    assert same_path("new/", "./new")
