import io
import os

import pytest

from afd_tf.base.errors import UserError
from afd_tf.data import image_files
from afd_tf.data.foreign_files import brand, describe

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
AVIF = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"


def test_brands():
    assert brand(HEIC) == "heic"
    assert brand(AVIF) == "avif"
    assert brand(b"\0\0\0\x18ftypisom\0\0\0\0isommp41") is None
    assert brand(b"") is None


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty: remove it, or copy it again."),
        (HEIC, "is a HEIC image .*`pip install pillow-heif`"),
        (b"\n<!DOCTYPE html><p>404", "is an HTML page, perhaps the error page"),
        (b"\xef\xbb\xbf<HTML>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", ".*`git lfs pull`"),
        (b"/annex/objects/SHA256E-s1", ".*`git annex get`"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"PK\x03\x04\x14", "is a ZIP archive: unpack it."),
        (b"<?xml version='1.0'?><svg>", "is an SVG drawing: convert it"),
        (b"<svg xmlns=''>", "is an SVG drawing: convert it"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "is a video"),
        (b"RIFF\x24\0\0\0AVI LIST\0\0", "is a video"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "is no image that can be read"),
        (b"notes\r\n", "is no image but a text: remove it."),
        (b"\0" * 99, "holds zeros alone, as after a broken copy"),
        (b"\x93\x01\xff", "is no image that can be read: remove or repair it."),
    ],
)
def test_the_message_says_what_is_there_and_what_to_do(content, what):
    with pytest.raises(UserError, match=f"^x {what}"):
        image_files.read_image(io.BytesIO(content), channels=3, name="x")


def test_avif_without_a_reader():
    assert "pillow>=11.3" in describe(AVIF)


def test_files_that_do_not_open(tmp_path):
    def message(path):
        with pytest.raises(UserError) as error:
            image_files.read_image(str(path), channels=3)
        return str(error.value)

    assert "does not exist: correct its path" in message(tmp_path / "nothing")
    assert "is a folder, not an image" in message(tmp_path)
    os.symlink("gone\n", tmp_path / "dead")
    assert r"is a symbolic link to gone\n, which does not" in message(tmp_path / "dead")
    os.symlink("loop", tmp_path / "loop")
    assert "leads back to itself" in message(tmp_path / "loop")


def test_a_plugin_is_used_where_it_is_installed(tmp_path, monkeypatch):
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image\n"
        "def register_heif_opener():\n"
        "    Image.register_open('TESTHEIF', lambda *_: Image.new('L', (3, 2)),\n"
        "                        lambda head: head[8:12] == b'heic')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(image_files, "_registered", {})
    monkeypatch.setattr(image_files.Image, "OPEN", dict(image_files.Image.OPEN))
    monkeypatch.setattr(image_files.Image, "ID", list(image_files.Image.ID))
    found = image_files.read_image(io.BytesIO(HEIC), channels=1, name="x")
    assert found.shape == (2, 3, 1)
    with pytest.raises(UserError, match=r"^x is a broken image"):
        image_files.read_image(
            io.BytesIO(AVIF[:20] + b"mif1heic"), channels=1, name="x"
        )
