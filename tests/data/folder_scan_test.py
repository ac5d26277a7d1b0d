import os

import pytest

from afd_tf.base.errors import UserError
from afd_tf.data import folder_scan, image_file
from afd_tf.data.cache import Cache
from afd_tf.data.folder_scan import report_problems, scan
from tests.data.encoded import file_of, scene


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "x"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.png").write_bytes(file_of(scene(8, 9, seed=number), "png"))
    (root / "bad.png").write_bytes(b"")
    return str(root)


PATHS = ["0.png", "1.png", "2.png", "bad.png", "missing.png"]


def test_only_new_and_changed_files_are_read(root, tmp_path, monkeypatch):
    read = []

    def inspect(content, *, path, name):
        read.append(path)
        return image_file.inspect(content, path=path, name=name)

    monkeypatch.setattr(
        folder_scan,
        "image_file",
        type("Module", (), {"inspect": staticmethod(inspect)}),
    )
    first = scan(root, PATHS, Cache(tmp_path / "cache"))
    assert sorted(read) == PATHS[:4]
    assert list(first[0]) == PATHS[:3]
    assert dict(first[1]).keys() == {"bad.png", "missing.png"}
    read.clear()
    os.utime(os.path.join(root, "1.png"), (5, 5))
    assert scan(root, PATHS, Cache(tmp_path / "cache")) == first
    # A bad file may be readable now, with another package.
    assert sorted(read) == ["1.png", "bad.png"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_files_that_are_gone_leave_the_cache(root, tmp_path):
    cache = Cache(tmp_path / "cache")
    scan(root, PATHS, cache)
    scan(root, PATHS[:1], cache)
    (path,) = (tmp_path / "cache").iterdir()
    assert "1.png" not in path.read_text()


def test_one_problem_is_one_line(root, tmp_path):
    problems = [("a\nb.png", "is empty: remove it.")]
    arguments = {"name": "photos", "root": root, "cache": Cache(tmp_path / "cache")}
    with pytest.raises(UserError) as error:
        report_problems(problems, skip=False, **arguments)
    assert str(error.value) == (
        f"{root}/a\\nb.png is empty: remove it. Or go on without it: --skip_bad_images."
    )
    report_problems([], skip=False, **arguments)


def test_many_problems_without_a_cache(root, tmp_path, capsys):
    (tmp_path / "file").touch()
    problems = [(f"{n:02}", "is empty.") for n in range(21)]
    report_problems(
        problems, skip=True, name="photos", root=root, cache=Cache(tmp_path / "file/c")
    )
    said = capsys.readouterr().err
    assert "21 files of photos cannot be used and are left out" in said
    assert f"{root}/19 is empty.\n  ... and 1 more\n" in said
    assert "listed in" not in said
