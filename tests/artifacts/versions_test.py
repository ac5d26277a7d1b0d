"""Versions: numbered, never overwritten, never seen half-written."""

import os
import time
from pathlib import Path

from afd_tf.artifacts import versions
from tests import exports


def test_versions_count_up_and_are_never_overwritten(digits, tmp_path):
    peer = exports.random_peer("resnet8", digits.info)
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "mine").write_text("kept")
    (tmp_path / "12").write_text("a file")
    (tmp_path / "latest").mkdir()
    names = [
        exports.export(peer, exports.OneImage(digits.info), tmp_path, ["tflite"])[
            1
        ].name
        for _ in range(2)
    ]
    assert names == ["13", "14"]
    assert (tmp_path / "9" / "mine").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["9", "12", "13", "14", "latest"]
    )
    first, second = (tmp_path / name / "model.tflite" for name in names)
    assert first.read_bytes() == second.read_bytes()


def test_number_taken_in_the_meantime(tmp_path, monkeypatch):
    work = tmp_path / ".work"
    work.mkdir()
    (tmp_path / "1").mkdir()
    original = Path.rename

    def rename(self, target):
        if target.name == "2" and not target.exists():
            target.mkdir()
            (target / "of another export").touch()
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert versions.rename_to_next_version(work, tmp_path) == tmp_path / "3"


def test_leftovers_of_killed_exports_are_swept_up(digits, tmp_path):
    old, new = (f".{digit * 32}.unfinished" for digit in "ab")
    for name in (old, new, ".mine.unfinished", "3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        if name != new:
            two_days_ago = time.time() - 48 * 3600
            os.utime(tmp_path / name, (two_days_ago, two_days_ago))
    peer = exports.random_peer("resnet8", digits.info)
    exports.export(peer, exports.OneImage(digits.info), tmp_path, ["tflite"])
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([new, ".mine.unfinished", "3", "4"])
