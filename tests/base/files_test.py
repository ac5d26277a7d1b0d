"""Files are there whole, or as they were before."""

import contextlib
import os
import stat

import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.base.files import replacing, writing_to


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
