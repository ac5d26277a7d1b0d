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


def names(path):
    return {file.name for file in path.iterdir()}


def test_what_was_not_used_for_longest_is_removed(tmp_path):
    content = {
        number: np.full([40, 10, 10, 1], number, np.uint8) for number in range(4)
    }
    labels = np.zeros([40], np.int32)

    def use(number, gigabytes):
        images, _ = Cache(tmp_path, gigabytes).images(
            {"a": number}, lambda: (content[number], labels)
        )
        np.testing.assert_array_equal(images, content[number])

    for age, number in enumerate((0, 1, 2)):
        before = names(tmp_path)
        use(number, 1)
        for name in names(tmp_path) - before:
            os.utime(tmp_path / name, (1000 + age, 1000 + age))
    (tmp_path / "notes.json").write_text("not of the cache")
    first = {
        name for name in names(tmp_path) if os.stat(tmp_path / name).st_mtime == 1000
    }
    second = {
        name for name in names(tmp_path) if os.stat(tmp_path / name).st_mtime == 1001
    }
    use(0, 1)  # is now the youngest
    # Each pair of files has 4,128 + 288 bytes; there is place for three of them.
    use(3, 3.1 * 4416 / 1e9)
    assert first <= names(tmp_path)
    assert not second & names(tmp_path)
    assert len(names(tmp_path)) == 3 * 2 + 1


def test_what_this_process_uses_stays(tmp_path):
    cache = Cache(tmp_path, gigabytes=0)
    for key in range(3):
        cache.value({"a": key}, lambda: "x" * 100)
    assert len(names(tmp_path)) == 3
    Cache(tmp_path, gigabytes=0).value({"a": 3}, lambda: "y")
    assert len(names(tmp_path)) == 1


def test_abandoned_unfinished_files_are_removed(tmp_path):
    old, new = (tmp_path / f"{c * 32}.json.1.unfinished" for c in "ab")
    old.touch()
    new.touch()
    os.utime(old, (1000, 1000))
    Cache(tmp_path).value({}, lambda: 1)
    assert not old.exists()
    assert new.exists()


def test_files(tmp_path):
    cache = Cache(tmp_path)
    path = cache.file({"a": 1}, ".txt", lambda file: file.write(b"one"))
    assert path.read_bytes() == b"one"
    assert path.suffix == ".txt"
    assert cache.file({"a": 1}, ".txt", lambda file: file.write(b"two")) == path
    assert path.read_bytes() == b"one"
    cache.file({"a": 1}, ".txt", lambda file: file.write(b"two"), again=True)
    assert path.read_bytes() == b"two"
    assert Cache(path / "below").file({}, ".txt", lambda file: None) is None
