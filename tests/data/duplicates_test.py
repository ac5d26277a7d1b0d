import numpy as np
import pytest

from afd_tf.data.cache import Cache
from afd_tf.data.duplicates import look_alikes, say_leakage, without_copies
from afd_tf.data.image_file import ImageFile


def image(path, label=0, sha=None, bits=None):
    packed = np.packbits(np.zeros(128, np.uint8) if bits is None else bits)
    digest = (sha or path).encode().hex()
    return ImageFile(
        path, label, 9, 8, 8, 3, 1, True, digest, packed.tobytes().hex(), 0.0, False
    )


def pattern(seed, flips=0):
    values = np.random.default_rng(seed).integers(0, 2, 128).astype(np.uint8)
    values[:flips] ^= 1
    return values


def test_copies(capsys):
    images = [image("1"), image("2", sha="1"), image("3", 1), image("4", 0, sha="3")]
    assert without_copies(images, "photos") == images[:1]
    said = capsys.readouterr().err
    assert "photos: 1 copies of other images are left out (2)" in said
    assert (
        "2 files are left out, as the same image is in several classes (3, 4)" in said
    )
    assert without_copies(images[::2], "photos") == images[::2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("flips", "alike"), [(0, True), (6, True), (7, False)])
def test_look_alikes(flips, alike):
    trained = [image(str(n), bits=pattern(n)) for n in range(5)]
    held_out = [image("x", bits=pattern(3, flips)), image("y", bits=pattern(9))]
    found = look_alikes(trained, held_out)
    assert found == ([(held_out[0], trained[3])] if alike else [])


def test_images_without_contrast_are_not_compared():
    assert look_alikes([image("1")], [image("2")]) == []
    assert look_alikes([], [image("2")]) == []


def test_leakage_is_said_once_in_a_line(tmp_path, capsys):
    images = [
        (image("a", bits=pattern(0)), "train"),
        (image("b", bits=pattern(1)), "train"),
        (image("c", sha="a", bits=pattern(0)), "test"),
        (image("d", bits=pattern(1, 2)), "validation"),
        (image("e", bits=pattern(2)), "test"),
    ]
    cache = Cache(tmp_path)
    for _ in range(2):
        found = say_leakage(images, name="photos", cache=cache)
        assert found == {"copies": 1, "look_alikes": 1}
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "1 held-out images are the same as training images, and 1 more" in said
        assert "e.g. c and a:" in said
    apart = [images[0], images[4]]
    assert say_leakage(apart, name="photos", cache=cache) == {
        "copies": 0,
        "look_alikes": 0,
    }
    assert capsys.readouterr().err == ""
