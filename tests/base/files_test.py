"""Files are there whole, or as they were before."""

import ast
import contextlib
import errno
import io
import os
import stat
from pathlib import Path

import pytest
import tensorflow as tf

from afd_tf.base import files
from afd_tf.base.errors import UserError
from afd_tf.base.files import check_writable, replacing, write_together, writing_to


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with replacing(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    with replacing(path) as file:
        file.write(b"second")
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_other_users_may_read_it_as_far_as_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_after_an_error_nothing_has_changed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_several_files_are_replaced_together_or_not_at_all(tmp_path):
    names = ("a", "b")

    def write(broken):
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(replacing(tmp_path / name)) for name in names]
            for file in files:
                file.write(b"new")
            if broken:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(broken=True)
    assert list(tmp_path.iterdir()) == []
    write(broken=False)
    assert [(tmp_path / name).read_bytes() for name in names] == [b"new", b"new"]


def test_errors_of_the_system_and_of_tensorflow_become_one_line(tmp_path):
    for error in (
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(
            None, None, "{{node SaveV2}} /a.tmp; No space left on device [Op:SaveV2]"
        ),
    ):
        with (
            pytest.raises(UserError, match=f"write to {tmp_path}: No space left on de"),
            writing_to(tmp_path),
        ):
            raise error
    with pytest.raises(ZeroDivisionError), writing_to(tmp_path):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space, then give the same command"),
        (errno.EACCES, "correct the permission, or give another directory"),
        (errno.EROFS, "correct the permission, or give another directory"),
        (errno.ENAMETOOLONG, "give a shorter path"),
        (errno.ENOTDIR, "in the way: move it, or give another directory"),
        (errno.EIO, "correct that, then give the same command"),
    ],
)
def test_the_advice_fits_the_error(code, advice):
    reason = os.strerror(code)
    for error in (
        OSError(code, reason),
        tf.errors.UnknownError(None, None, f"{{{{node x}}}} /a; {reason} [Op:SaveV2]"),
    ):
        with (
            pytest.raises(UserError, match=rf"{reason}.*: .*{advice}\.$"),
            writing_to("a/b"),
        ):
            raise error


def test_a_trial_of_writing_leaves_no_trace(tmp_path):
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "newer")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "new", "new/newer"])
def test_a_directory_that_cannot_be_written_to_is_refused(below, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "dead").symlink_to("nowhere")
    for name in ("file", "dead"):
        with pytest.raises(UserError, match=f"Not a directory: '.*{name}'.*in the way"):
            check_writable(tmp_path / name / below)

    # Permissions do not bind the user who may do everything.
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UserError, match=r"Permission denied.*correct the permission"):
        check_writable(tmp_path / below)


def without_encoding(tree: ast.AST) -> list[int]:
    """Returns the lines that open text in the encoding of the locale."""
    found = []
    for node in ast.walk(tree):
        function = getattr(node, "func", None)
        name = getattr(function, "attr", getattr(function, "id", ""))
        if not name or "encoding" in [each.arg for each in node.keywords]:
            continue
        mode = node.args[:1] if ast.unparse(function) != "open" else node.args[1:2]
        if (
            (name == "read_text" and not node.args)
            or (name == "write_text" and len(node.args) < 2)
            or (name == "open" and "b" not in "".join(map(ast.unparse, mode)))
        ) and ast.unparse(function) not in ("os.open", "Image.open"):
            found.append(node.lineno)
    return found


def test_text_is_utf8_whatever_the_locale_is():
    package = Path(files.__file__).parents[1]
    found = {
        f"{path.relative_to(package)}, line {line}"
        for path in package.rglob("*.py")
        # Those read what the system says of itself, in ASCII.
        if path.parent.name != "benchmarks"
        for line in without_encoding(ast.parse(path.read_text("utf-8")))
    }
    assert found == set()


def test_text_of_the_locale_is_found():
    text = 'open(a)\nb.open("a")\nc.read_text()\nd.write_text("x")\nopen(e, mode)'
    assert without_encoding(ast.parse(text)) == [1, 2, 3, 4, 5]
    text = 'open(a, "rb")\nb.open("xb")\nc.read_text("utf-8")\nd.write_text(x, "utf-8")'
    assert without_encoding(ast.parse(text + '\nopen(a, encoding="utf-8")')) == []


@pytest.mark.parametrize("method", ["write", "flush"])
@pytest.mark.parametrize("full_for", [b"now b", b"now c"])
def test_a_full_disk_leaves_the_files_of_before(
    tmp_path, monkeypatch, method, full_for
):
    (tmp_path / "a").write_bytes(b"before")
    original = Path.open

    class FullDisk(io.BufferedWriter):
        def write(self, content):
            self.full = content == full_for
            return self.fail("write") or super().write(content)

        def flush(self):
            return self.fail("flush") or super().flush()

        def fail(self, name):
            if name == method and getattr(self, "full", False):
                self.full = False
                raise OSError(28, "No space left on device")

    def open_on_full_disk(path, mode="r", *rest, **options):
        if mode != "xb":
            return original(path, mode, *rest, **options)
        return FullDisk(original(path, mode, buffering=0))

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    contents = {tmp_path / name: f"now {name}".encode() for name in "abc"}
    with pytest.raises(UserError, match="No space left"):
        write_together(contents)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"
    monkeypatch.undo()
    write_together(contents)
    written = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == contents


def test_all_files_are_written_or_none(tmp_path):
    good, bad = tmp_path / "a.json", tmp_path / "b" / "x.png"
    good.write_text("before")
    bad.parent.write_text("in the way")
    with pytest.raises(UserError, match="Nothing that was there is lost"):
        write_together({good: b"after", bad: b"x"})
    assert good.read_text() == "before"
