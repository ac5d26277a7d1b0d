import os
import stat

import numpy as np
import pytest

from afd_tf.data.cache import Cache

IMAGES = np.arange(2 * 3 * 3 * 1, dtype=np.uint8).reshape(2, 3, 3, 1)
LABELS = np.array([1, 0], np.int32)


class Builder:
    """Counts how often something is built."""

    def __init__(self, value):
        self.value = value
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.value


def check(images):
    np.testing.assert_array_equal(images[0], IMAGES)
    np.testing.assert_array_equal(images[1], LABELS)


def test_images_are_built_once_per_key(tmp_path):
    build = Builder((IMAGES, LABELS))
    for _ in range(3):
        check(Cache(tmp_path).images({"a": 1}, build))
    assert build.calls == 1
    check(Cache(tmp_path).images({"a": 2}, build))
    assert build.calls == 2
    assert isinstance(Cache(tmp_path).images({"a": 1}, build)[0], np.memmap)


@pytest.mark.parametrize("suffix", [".images.npy", ".labels.npy"])
@pytest.mark.parametrize("keep", [0, 20, 130])
def test_truncated_files_are_rebuilt(tmp_path, suffix, keep):
    build = Builder((IMAGES, LABELS))
    check(Cache(tmp_path).images({}, build))
    (path,) = tmp_path.glob("*" + suffix)
    os.truncate(path, keep)
    check(Cache(tmp_path).images({}, build))
    check(Cache(tmp_path).images({}, build))
    assert build.calls == 2


def test_values(tmp_path):
    build = Builder({"mean": [0.1 + 0.2, 1 / 3]})
    for _ in range(2):
        assert Cache(tmp_path).value({"a": 1}, build) == build.value
    assert build.calls == 1
    (path,) = tmp_path.glob("*.json")
    path.write_text('{"mean": [0.')
    assert Cache(tmp_path).value({"a": 1}, build) == build.value
    assert build.calls == 2
    Cache(tmp_path).value({"a": 1}, build, is_current=lambda value: False)
    assert build.calls == 3


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("not a directory")
    cache = Cache(occupied / "cache")
    build = Builder((IMAGES, LABELS))
    check(cache.images({}, build))
    assert cache.value({}, lambda: 3) == 3


def test_a_full_disk_leaves_no_files(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    check(Cache(tmp_path).images({}, Builder((IMAGES, LABELS))))
    assert list(tmp_path.iterdir()) == []


def test_the_default_directory(cache_home, monkeypatch, tmp_path):
    Cache().value({}, lambda: 1)
    assert len(list((cache_home / "afd_tf").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Cache().value({}, lambda: 1)
    (path,) = (tmp_path / "home/.cache/afd_tf").iterdir()
    assert stat.S_ISREG(path.stat().st_mode)
