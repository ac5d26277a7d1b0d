import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from afd_tf.base.errors import UserError
from afd_tf.data import augment, image_file, image_files

COLOUR = np.random.default_rng(3).integers(0, 256, [6, 8, 3], np.uint8)


def save(path, image, **arguments):
    image.save(path, **arguments)
    return path


def shape_of(path):
    """The shape that the scan of a data set finds."""
    facts = image_file.inspect(path.read_bytes(), path="", name=str(path))
    return facts.height, facts.width, facts.channels


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_formats_without_loss(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(COLOUR), **options)
    np.testing.assert_array_equal(image_files.read_image(path, channels=3), COLOUR)
    assert shape_of(path) == (6, 8, 3)


def test_palette_keeps_its_colours(tmp_path):
    image = Image.fromarray(COLOUR).quantize(256)
    path = save(tmp_path / "a.png", image)
    np.testing.assert_array_equal(
        image_files.read_image(path, channels=3), np.asarray(image.convert("RGB"))
    )
    assert shape_of(path) == (6, 8, 3)


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 6), (0, 255, 255, 0))  # red
    path = save(tmp_path / "a.tif", image)
    expected = np.tile([255, 0, 0], [6, 8, 1])
    np.testing.assert_array_equal(image_files.read_image(path, channels=3), expected)


def test_transparency_is_white(tmp_path):
    pixels = np.zeros([6, 8, 4], np.uint8)
    pixels[0, 0] = 10, 20, 30, 255
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    result = image_files.read_image(path, channels=3)
    np.testing.assert_array_equal(result[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(result[1:], np.full([5, 8, 3], 255))


def test_grey_values(tmp_path):
    deep = np.array([[0, 256, 65535], [511, 512, 32768]], np.uint16)
    path = save(tmp_path / "deep.png", Image.fromarray(deep))
    result = image_files.read_image(path, channels=1)[..., 0]
    np.testing.assert_array_equal(result, [[0, 1, 255], [1, 2, 128]])
    assert shape_of(path) == (2, 3, 1)
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    path = save(tmp_path / "bits.png", bits)
    result = image_files.read_image(path, channels=3)
    np.testing.assert_array_equal(result[0], [[0, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_orientation(tmp_path, orientation, quarters):
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", image, exif=exif)
    expected = np.rot90(COLOUR, quarters)
    np.testing.assert_array_equal(image_files.read_image(path, channels=3), expected)
    assert shape_of(path) == expected.shape


@pytest.mark.parametrize("size", [3, 5, 12])
def test_resizing_agrees_with_tensorflow(tmp_path, size):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    result = image_files.read_image(path, channels=3, image_size=size)
    expected = augment.central_crop(COLOUR, size=(size, size))
    assert result.shape == (size, size, 3)
    assert np.abs(result.astype(int) - expected.numpy().astype(int)).max() <= 1


def test_no_images(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("not an image")
    with pytest.raises(UserError, match=r"a\.png is no image"):
        image_files.read_image(path, channels=3)
    with pytest.raises(UserError, match=r"missing\.png does not exist"):
        image_files.read_image(tmp_path / "missing.png", channels=3)


def test_a_shape_that_is_not_square(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))  # 6 rows, 8 columns
    same = image_files.read_image(path, channels=3, image_size=(6, 8))
    np.testing.assert_array_equal(same, COLOUR)
    # 2 to 1 is cut to the central 6x3, which halves and thirds without a seam.
    plain = np.repeat(np.arange(8, dtype=np.uint8)[np.newaxis] * 30, 6, axis=0)
    path = save(tmp_path / "b.png", Image.fromarray(plain))
    cut = image_files.read_image(path, channels=1, image_size=(6, 3))[..., 0]
    np.testing.assert_array_equal(cut, plain[:, 2:5])


def test_the_content_of_a_file_is_a_file(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    content = io.BytesIO(path.read_bytes())
    np.testing.assert_array_equal(image_files.read_image(content, channels=3), COLOUR)
    with pytest.raises(UserError, match=r"^- is empty"):
        image_files.read_image(io.BytesIO(b""), channels=3, name="-")


def test_a_head_that_promises_too_much_is_refused_at_once(tmp_path):
    # 20,000 x 20,000: the file is small, its pixels would be 1.2 GB.
    image = Image.new("1", (20_000, 20_000))
    path = save(tmp_path / "large.png", image)
    with pytest.raises(
        UserError, match=r"large\.png is too large: images of more than"
    ):
        image_files.read_image(path, channels=3)


def test_the_first_image_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    result = image_files.read_image(path, channels=3)
    np.testing.assert_array_equal(result, np.tile([255, 0, 0], [4, 4, 1]))


def test_image_files(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.gif", ".x/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [
        name[len(str(tmp_path)) + 1 :]
        for name in map(str, image_files.find_image_files(tmp_path))
    ]
    assert found == ["a.JPG", "b.png", "sub/c.gif"]


def tiff(tmp_path, values, **options):
    return save(tmp_path / "a.tif", Image.fromarray(values), **options)


LINEAR = np.arange(64).reshape(8, 8)


@pytest.mark.parametrize(
    ("values", "white_level", "expected"),
    [
        # Floats from 0 to 1, to 255 and to 65535; what no pixel can be is cut.
        ((LINEAR / 63).astype(np.float32), None, np.rint(LINEAR / 63 * 255)),
        ((LINEAR * 4).astype(np.float32), None, LINEAR * 4),
        ((LINEAR * 1024).astype(np.float32), None, LINEAR * 4),
        ((LINEAR / 32 - 1).astype(np.float32), None, np.rint((LINEAR / 32 - 1) * 255)),
        # Integers of 32 bits.
        ((LINEAR * 4).astype(np.int32), None, LINEAR * 4),
        ((LINEAR * 1040).astype(np.int32), None, LINEAR * 1040 // 256),
        ((LINEAR * 40).astype(np.int32), None, LINEAR * 40 // 16),
        # Of 16 bits, unless the data set says otherwise.
        ((LINEAR * 65).astype(np.uint16), None, LINEAR * 65 // 256),
        ((LINEAR * 65).astype(np.uint16), 4095.0, LINEAR * 65 // 16),
        ((LINEAR * 16).astype(np.uint16), 1023.0, LINEAR * 16 // 4),
    ],
)
def test_values_of_more_than_8_bits(tmp_path, values, white_level, expected):
    path = tiff(tmp_path, values)
    found = image_files.read_image(path, channels=1, white_level=white_level)[..., 0]
    np.testing.assert_array_equal(found, np.clip(expected, 0, 255).astype(np.uint8))


def test_a_file_that_says_its_largest_value(tmp_path):
    path = tiff(tmp_path, (LINEAR * 65).astype(np.uint16), tiffinfo={281: 4095})
    found = image_files.read_image(path, channels=1)[..., 0]
    np.testing.assert_array_equal(found, LINEAR * 65 // 16)


def test_values_that_are_no_numbers(tmp_path):
    values = np.array([[0, 1], [np.nan, np.inf]], np.float32)
    found = image_files.read_image(tiff(tmp_path, values), channels=1)[..., 0]
    np.testing.assert_array_equal(found, [[0, 255], [0, 255]])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "jpg", "webp", "png"])
def test_every_orientation_has_one_shape(tmp_path, orientation, suffix):
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", image, exif=exif)
    shape = (8, 6, 3) if orientation >= 5 else (6, 8, 3)
    assert shape_of(path) == shape
    assert image_files.read_image(path, channels=3).shape == shape


def test_whatever_a_plugin_raises_is_said_of_the_file(tmp_path, monkeypatch):
    path = save(tmp_path / "a\nb.png", Image.fromarray(COLOUR))

    def fail(*_):
        raise KeyError("unknown\nkind")

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(UserError, match=r"a\\nb\.png is a broken image \(.unknown"):
        image_files.read_image(path, channels=3)
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"a\\nb\.png is no image that can be read"):
        image_files.read_image(path, channels=3)


def test_a_bomb_that_shows_while_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(COLOUR))

    def explode(*_):
        raise Image.DecompressionBombError("too many pixels")

    monkeypatch.setattr(Image.Image, "load", explode)
    with pytest.raises(UserError, match=r"a\.png is too large"):
        image_files.read_image(path, channels=3)


@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_central_size_is_that_of_tensorflow(fraction):
    """Halves of a pixel too, which are no halves in float32."""
    sizes = np.random.default_rng(0).integers(1, 1000, (100, 2))
    for height, width in [(300, 300), (500, 500), *sizes.tolist()]:
        image = tf.cast([height, width], tf.float32)
        scale = tf.reduce_min(image / [96.0, 72.0]) * fraction
        expected = tf.maximum(tf.round(scale * [96.0, 72.0]), 1).numpy()
        found = image_files.central_size((height, width), (96, 72), fraction)
        assert found == tuple(expected), (height, width)
