"""Files that TensorFlow reads as they are, and those that Pillow has to read."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from afd_tf.base.errors import UserError
from afd_tf.data import image_file, image_files
from afd_tf.data.cache import Cache
from afd_tf.data.encoded_files import EncodedFiles
from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.data.stream_reader import StreamReader
from tests.data.encoded import file_of, scene
from tests.data.numbered import collect


@pytest.fixture
def folder(tmp_path):
    """Files of many kinds; returns the folder and the facts about them."""
    contents = {
        "turned.jpg": file_of(scene(30, 40, seed=1), "jpeg", 6),
        "grey.png": file_of(scene(25, 25, 1), "png"),
        "still.gif": file_of(scene(20, 31), "gif"),
        "plain.bmp": file_of(scene(19, 18), "bmp"),
        "print.jpg": jpeg_of_ink(),
        "photo.webp": file_of(scene(33, 21), "webp", 8),
        "clear.png": file_of(np.full((12, 13, 4), 90, np.uint8), "png"),
    }
    name = os.fsdecode(b"b\xe9b\xe9.jpg")
    contents[name] = file_of(scene(16, 16), "jpeg")
    records = []
    for label, (name, content) in enumerate(contents.items()):
        with open(os.path.join(tmp_path, name), "wb") as file:
            file.write(content)
        record = image_file.inspect(content, path=name, name=name)
        records.append(record._replace(label=label))
    return tmp_path, records


def jpeg_of_ink():
    file = io.BytesIO()
    Image.fromarray(scene(22, 22)).convert("CMYK").save(file, "jpeg")
    return file.getvalue()


def source_of(folder, records, copies):
    return EncodedFiles(
        str(folder),
        {"test": records},
        image_shape=(16, 16, 3),
        cache=Cache(copies),
    )


def test_every_file_gives_pillows_pixels(folder, tmp_path):
    root, records = folder
    source = source_of(root, records, tmp_path / "copies")
    reader = StreamReader(source, "test", ImageRecipe())
    images = collect(reader._cropped(np.arange(len(records))))
    for record, (pixels, label) in zip(records, images, strict=True):
        expected = image_files.read_image(
            os.path.join(root, record.path), channels=3, image_size=16
        )
        assert label == record.label
        assert np.abs(pixels.astype(int) - expected).max() <= 1, record.path
    np.testing.assert_array_equal(source.labels("test"), np.arange(len(records)))


def test_pillow_reads_a_file_once(folder, tmp_path, monkeypatch):
    root, records = folder
    copies = tmp_path / "copies"
    source = source_of(root, records, copies)
    foreign = [record for record in records if not record.native]
    assert {record.path for record in foreign} == {
        "print.jpg",
        "photo.webp",
        "clear.png",
    }
    assert len(list(copies.iterdir())) == 3
    monkeypatch.setattr(image_files, "read_image", None)
    again = source_of(root, records, copies)
    native = [record.num_bytes for record in records if record.native]
    copied = [path.stat().st_size for path in copies.iterdir()]
    assert again.encoded_bytes("test") == sum(native) + sum(copied)
    assert source.encoded_bytes("test") == again.encoded_bytes("test")


def test_a_cache_that_cannot_be_written_costs_no_run(folder, tmp_path):
    root, records = folder
    place = tmp_path / "file"
    place.write_text("")
    cached = source_of(root, records, tmp_path / "copies")
    temporary = source_of(root, records, place)
    for left, right in zip(
        cached._paths["test"], temporary._paths["test"], strict=True
    ):
        with open(left, "rb") as one, open(right, "rb") as other:
            assert one.read() == other.read()


def test_a_broken_file_that_pillow_reads_is_named(folder, tmp_path):
    root, records = folder
    (root / "photo.webp").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"photo\.webp"):
        source_of(root, records, tmp_path / "copies")
