import hashlib
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from afd_tf.base.errors import UserError
from afd_tf.data import image_files
from afd_tf.data.image_file import inspect
from tests.data.encoded import file_of, scene

GREY, COLOUR = scene(20, 31, 1), scene(20, 31)
ORIENTATIONS = range(1, 9)


def facts(content):
    return inspect(content, path="x", name="x")


def saved(image, encoding, **options):
    file = io.BytesIO()
    image.save(file, encoding, **options)
    return file.getvalue()


def test_facts_about_a_photo():
    content = file_of(COLOUR, "jpeg", 6)
    found = facts(content)
    assert found.path == "x"
    assert (found.height, found.width, found.channels) == (31, 20, 3)
    assert (found.orientation, found.native) == (6, True)
    assert found.num_bytes == len(content)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.largest_value == 0


@pytest.mark.parametrize("encoding", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_shape_is_that_of_the_upright_image(encoding, orientation):
    content = file_of(COLOUR, encoding, orientation)
    found = facts(content)
    pixels = image_files.read_image(io.BytesIO(content), channels=3)
    assert (found.height, found.width) == pixels.shape[:2]
    assert pixels.shape == ((31, 20, 3) if orientation >= 5 else (20, 31, 3))
    # Others than Pillow decode native files alone.
    native = encoding in ("jpeg", "png")
    assert (found.native, found.orientation) == (native, orientation if native else 1)


PALETTE = Image.fromarray(COLOUR).quantize(256)
NATIVE = {
    "photo": file_of(COLOUR, "jpeg"),
    "grey photo": file_of(GREY, "jpeg"),
    "progressive": file_of(COLOUR, "jpeg", progressive=True),
    "coarse colours": file_of(COLOUR, "jpeg", subsampling=2, quality=60),
    "fine colours": file_of(COLOUR, "jpeg", subsampling=0),
    "RGB in a JPEG": file_of(COLOUR, "jpeg", keep_rgb=True),
    "two photos": saved(
        Image.fromarray(COLOUR),
        "mpo",
        save_all=True,
        append_images=[Image.fromarray(COLOUR[::-1])],
    ),
    "png": file_of(COLOUR, "png"),
    "grey png": file_of(GREY, "png"),
    "palette": saved(PALETTE, "png"),
    "gif": saved(PALETTE, "gif"),
    "bmp": file_of(COLOUR, "bmp"),
}
TRANSPARENT = Image.fromarray(np.dstack([COLOUR, GREY]))
FOREIGN = {
    "CMYK": saved(Image.fromarray(COLOUR).convert("CMYK"), "jpeg"),
    "transparent": saved(TRANSPARENT, "png"),
    "grey and alpha": saved(TRANSPARENT.convert("LA"), "png"),
    "palette with a transparent colour": saved(PALETTE, "png", transparency=0),
    "one transparent colour": file_of(COLOUR, "png", transparency=(0, 0, 0)),
    "16 bits": saved(Image.fromarray(GREY[..., 0].astype(np.uint16) * 257), "png"),
    "bits": saved(Image.fromarray(GREY[..., 0]).convert("1"), "png"),
    "16 colours": saved(PALETTE.quantize(16), "png", bits=4),
    "animation": saved(
        PALETTE, "gif", save_all=True, append_images=[PALETTE.rotate(9)]
    ),
    "transparent gif": saved(PALETTE, "gif", transparency=3),
    "grey bmp": file_of(GREY, "bmp"),
    "webp": file_of(COLOUR, "webp"),
    "tiff": file_of(COLOUR, "tiff"),
}


@pytest.mark.parametrize("kind", NATIVE)
def test_native_files_are_decoded_by_tensorflow_as_by_pillow(kind):
    content = NATIVE[kind]
    found = facts(content)
    assert found.native
    expected = image_files.read_image(io.BytesIO(content), channels=found.channels)
    if content[:2] == b"\xff\xd8":
        pixels = tf.io.decode_jpeg(
            content, found.channels, dct_method="INTEGER_ACCURATE"
        )
        assert np.abs(pixels.numpy().astype(int) - expected).max() <= 1
    else:
        pixels = tf.io.decode_image(content, found.channels, expand_animations=False)
        np.testing.assert_array_equal(pixels, expected)
    assert (found.height, found.width, found.channels) == expected.shape


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_left_to_pillow(kind):
    found = facts(FOREIGN[kind])
    assert not found.native
    assert (found.height, found.width) == (20, 31)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "bmp", "tiff", "webp"])
def test_a_file_that_is_cut_off_is_found(encoding):
    content = file_of(scene(64, 64), encoding)
    with pytest.raises(UserError, match=r"^x is (a broken|no) image"):
        facts(content[: len(content) // 2])


def test_a_jpeg_without_its_end_is_not_native():
    content = NATIVE["photo"]
    assert content.endswith(b"\xff\xd9")
    try:
        found = facts(content[:-2])
    except UserError:
        return
    assert not found.native


@pytest.mark.parametrize(
    ("values", "largest", "is_float"),
    [
        (np.linspace(0, 1, 80, dtype=np.float32), 1.0, True),
        (np.array([*range(78), np.nan, np.inf], np.float32), 77.0, True),
        (np.arange(80, dtype=np.uint16) * 50, 3950.0, False),
        (np.arange(80, dtype=np.int32), 79.0, False),
    ],
)
def test_the_largest_value_of_deep_files(values, largest, is_float):
    content = saved(Image.fromarray(values.reshape(8, 10)), "tiff")
    found = facts(content)
    assert (found.largest_value, found.is_float) == (largest, is_float)
    assert found.channels == 1


def test_a_dark_file_that_states_its_white():
    image = Image.fromarray(np.full((8, 8), 300, np.uint16))
    assert facts(saved(image, "tiff", tiffinfo={281: 65535})).largest_value == 65535


def bits(found):
    return np.unpackbits(np.frombuffer(bytes.fromhex(found.perceptual_hash), np.uint8))


def test_the_perceptual_hash_compares_neighbours():
    # 9 x 9 pixels are hashed as they are: to the right lighter, downwards darker.
    rows, columns = np.mgrid[:9, :9]
    content = file_of(
        (100 + 9 * columns - 9 * rows)[..., np.newaxis].astype(np.uint8), "png"
    )
    np.testing.assert_array_equal(bits(facts(content)), [1] * 64 + [0] * 64)


def test_images_that_look_alike_have_similar_hashes():
    image = Image.fromarray(scene(300, 400))
    first = bits(facts(saved(image, "png")))
    for other in (
        saved(image, "jpeg", quality=40),
        saved(image.resize((160, 120)), "webp"),
        saved(image.point(lambda value: value * 0.9 + 5), "png"),
    ):
        assert np.count_nonzero(first != bits(facts(other))) <= 6
    different = bits(facts(saved(Image.fromarray(scene(300, 400, seed=5)), "png")))
    assert np.count_nonzero(first != different) > 30
