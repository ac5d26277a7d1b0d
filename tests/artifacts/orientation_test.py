"""The camera's orientation within a graph, against Pillow's."""

import io
import struct
import warnings
import zlib

import numpy as np
import PIL
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from afd_tf.artifacts import orientation

NOISE = np.random.default_rng(0).integers(0, 256, (7, 12, 3), dtype=np.uint8)
# Before version 13, which is not for Python 3.10, Pillow reads no entry behind one that
# is cut off.
ENDS_WHERE_CUT_OFF = int(PIL.__version__.split(".")[0]) < 13
FORMATS = {"JPEG": orientation.jpeg_orientation, "PNG": orientation.png_orientation}
XMP = "<x:xmpmeta><rdf:Description {}</x:xmpmeta>"


def exif(value, *, order=">", kind="H", count=1, before=0, header=42) -> bytes:
    """EXIF data with an orientation behind some other entries."""
    code = {"B": 1, "H": 3, "I": 4, "b": 6, "h": 8}[kind]
    entries = [
        struct.pack(f"{order}HHI4s", 256 + n, 3, 1, b"\1") for n in range(before)
    ]
    content = struct.pack(f"{order}{kind}", value).ljust(4, b"\0")
    entries.append(struct.pack(f"{order}HHI", 274, code, count) + content)
    return b"".join(
        [
            b"II" if order == "<" else b"MM",
            # Not directly behind the head, as some cameras write it.
            struct.pack(f"{order}HI", header, 11),
            b"gap",
            struct.pack(f"{order}H", len(entries)),
            *entries,
            bytes(4),
        ]
    )


def encoded(kind, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, kind, **options)
    return file.getvalue()


def with_segments(*segments: bytes) -> bytes:
    """A JPEG that begins with these bytes behind its first marker."""
    content = encoded("JPEG")
    return content[:2] + b"".join(segments) + content[2:]


def app1(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def with_chunk(kind: bytes, content: bytes, place: bytes) -> bytes:
    """A PNG with a chunk before the one that is named."""
    png = encoded("PNG")
    start = png.index(place) - 4
    return png[:start] + chunk(kind, content) + png[start:]


def xmp(content: str) -> bytes:
    return b"http://ns.adobe.com/xap/1.0/\0" + XMP.format(content).encode()


def of_pillow(content: bytes) -> int:
    value = Image.open(io.BytesIO(content)).getexif().get(274, 1)
    return value if value in range(1, 9) else 1


def files():
    """Yields name, format and content of files, and what is right where it is said."""
    for value in range(1, 9):
        for order in "<>":
            data = exif(value, order=order, before=value % 3)
            yield (
                f"JPEG {order} {value}",
                "JPEG",
                encoded("JPEG", exif=b"Exif\0\0" + data),
                value,
            )
            yield f"PNG {order} {value}", "PNG", encoded("PNG", exif=data), value
        yield (
            f"XMP {value}",
            "JPEG",
            with_segments(app1(xmp(f'tiff:Orientation="{value}"/>'))),
            value,
        )
    for order in "<>":
        for kind, right in (("I", 6), ("h", 6), ("b", 6), ("B", 1)):
            data = b"Exif\0\0" + exif(6, order=order, kind=kind)
            yield f"type {order}{kind}", "JPEG", encoded("JPEG", exif=data), right
    for value in (0, 9, 255, 65535):
        yield f"{value}", "JPEG", encoded("JPEG", exif=b"Exif\0\0" + exif(value)), 1
    yield "2^31", "JPEG", encoded("JPEG", exif=b"Exif\0\0" + exif(2**31, kind="I")), 1
    yield (
        "2^32 - 1",
        "JPEG",
        encoded("JPEG", exif=b"Exif\0\0" + exif(2**32 - 1, kind="I")),
        1,
    )
    for count, right in ((2, 6), (0, 1), (2**31, 1)):
        data = b"Exif\0\0" + exif(6, count=count)
        yield f"{count} values", "JPEG", encoded("JPEG", exif=data), right
    yield "none", "JPEG", encoded("JPEG"), 1
    yield "none", "PNG", encoded("PNG"), 1
    element = app1(xmp("><tiff:Orientation>8</tiff:Orientation>"))
    yield "an element of XMP", "JPEG", with_segments(element), 8
    both = (app1(b"Exif\0\0" + exif(3)), element)
    yield "EXIF before XMP", "JPEG", with_segments(*both), 3
    yield "XMP before EXIF", "JPEG", with_segments(*both[::-1]), 3
    no_tag = app1(b"Exif\0\0" + exif(3).replace(b"\x01\x12", b"\x01\x0f"))
    yield "EXIF without it, XMP", "JPEG", with_segments(no_tag, element), 8
    padded = (b"\xff" * 3, app1(b"other"), b"\xff\xff", app1(b"Exif\0\0" + exif(6)))
    yield "bytes that fill up", "JPEG", with_segments(*padded), 6
    twice = app1(b"Exif\0\0" * 2 + exif(6))
    yield "the prefix twice", "JPEG", with_segments(twice), 6
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp('tiff:Orientation="7"/>')
    yield "XMP in a PNG", "PNG", with_chunk(b"iTXt", text, b"IDAT"), 7
    for place in (b"IDAT", b"IEND"):
        yield f"eXIf before {place}", "PNG", with_chunk(b"eXIf", exif(5), place), 5
    headless = with_chunk(b"eXIf", b"Exif\0\0" + exif(5), b"IDAT")
    yield "eXIf with a prefix", "PNG", headless, 5


@pytest.fixture(scope="module")
def functions():
    spec = [tf.TensorSpec([], tf.string)]
    return {kind: tf.function(each, spec) for kind, each in FORMATS.items()}


def test_every_way_to_say_it_is_read_as_pillow_does(functions):
    for name, kind, content, expected in files():
        assert of_pillow(content) == expected, name
        assert functions[kind](content) == expected, name


@pytest.mark.filterwarnings("ignore")
def test_damaged_data_agree_with_pillow_or_say_nothing(functions):
    generator = np.random.default_rng(0)
    compared = 0
    for trial in range(400):
        order = "<>"[trial % 2]
        data = bytearray(exif(6, order=order, kind="HI"[trial % 3 % 2], before=2))
        for _ in range(generator.integers(1, 4)):
            small = generator.choice([0, 1, 2, 3, 4, 255])
            data[generator.integers(len(data))] = small
        data = bytes(data[: generator.choice([10, 30, 45, len(data), len(data)])])
        if trial % 4 < 2:
            kind, content = "JPEG", with_segments(app1(b"Exif\0\0" + data))
        else:
            kind, content = "PNG", with_chunk(b"eXIf", data, b"IDAT")
        found = int(functions[kind](content))
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                expected = of_pillow(content)
        # Pillow refuses some of them.
        except (OSError, SyntaxError, ValueError, struct.error):
            assert 1 <= found <= 8
            continue
        cut_off = any("Truncated File Read" in str(each.message) for each in said)
        if ENDS_WHERE_CUT_OFF and cut_off and expected == 1:
            assert 1 <= found <= 8
            continue
        compared += 1
        assert found == expected, data
    assert compared > 200


def test_no_damaged_file_is_an_error(functions):
    generator = np.random.default_rng(0)
    files = {
        "JPEG": with_segments(app1(b"Exif\0\0" + exif(6))),
        "PNG": with_chunk(b"eXIf", exif(6), b"IDAT"),
    }
    for trial in range(200):
        kind = ("JPEG", "PNG")[trial % 2]
        content = bytearray(files[kind])
        for place in generator.integers(2, 100, 3):
            content[place] = generator.integers(256)
        content = bytes(content[: generator.integers(len(content))])
        assert 1 <= functions[kind](content) <= 8


def test_a_file_of_many_tiny_parts_is_given_up(functions):
    parts = orientation.MAX_PARTS
    tail = app1(b"Exif\0\0" + exif(6))
    for number, expected in ((parts - 2, 6), (parts, 1), (200_000, 1)):
        content = with_segments(app1(b"") * number, tail)
        assert functions["JPEG"](content) == expected


@pytest.mark.parametrize("value", range(1, 9))
def test_images_are_turned_as_pillow_does(value):
    image = Image.open(io.BytesIO(encoded("PNG", exif=exif(value))))
    expected = np.asarray(ImageOps.exif_transpose(image))
    turned = tf.function(orientation.upright)(tf.constant(NOISE), tf.constant(value))
    np.testing.assert_array_equal(turned, expected)
