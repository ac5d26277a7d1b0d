"""The camera's orientation of an image file, read and applied within a graph.

Cameras store most images as the sensor saw them, and say in the file how they have to
be turned: in the EXIF data (tag 274), or, after some editors, in the XMP alone.
"""

import tensorflow as tf

# Segments of a JPEG, or chunks of a PNG, that are looked through: without a limit, a
# file of nothing but tiny ones would keep a server busy.
MAX_PARTS = 100

_EXIF = b"Exif\0\0"
_XMP_OF_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
# Text that is not compressed.
_XMP_OF_PNG = b"XML:com.adobe.xmp\0\0"
_XMP_TAG = b"tiff:Orientation"
_PNG_HEAD = 8

# The first bytes of EXIF data as Pillow accepts them; "I" is little-endian.
_TIFF = (b"II\x2a\0", b"MM\0\x2a", b"MM\x2a\0", b"II\0\x2a")
_ORIENTATION = 274
_ENTRY = 12
# Type of a whole number → its bytes. Pillow takes the type "byte", 1, for a text.
_TYPES = {3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 13: 4}

# Markers of a JPEG that have no content.
_ALONE = (0x00, 0x01, *range(0xD0, 0xD9))
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9


def jpeg_orientation(content: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a JPEG file, int32, 1 to 8; 1 is upright.

    Args:
      content: string scalar, the bytes of the file.
    """
    # So that a head can be read at every place of the file.
    padded = tf.strings.join([content, tf.constant(b"\0" * 8)])
    end = tf.strings.length(content)

    def read_segment(position, exif, xmp):
        first, marker, high, low = tf.unstack(_bytes(padded, position, 4), 4)
        length = tf.maximum(256 * high + low, 2)
        segment = tf.strings.substr(padded, position + 4, length - 2)
        is_marker = tf.equal(first, 0xFF)
        is_app1 = is_marker & tf.equal(marker, _APP1)
        exif_here = is_app1 & _begins(segment, _EXIF) & tf.equal(exif, b"")
        xmp_here = is_app1 & _begins(segment, _XMP_OF_JPEG)
        # What is no marker, and what only fills up, is one byte.
        size = tf.where(
            is_marker & tf.not_equal(marker, 0xFF),
            tf.where(tf.reduce_any(tf.equal(marker, _ALONE)), 2, 2 + length),
            1,
        )
        is_over = is_marker & (tf.equal(marker, _SCAN) | tf.equal(marker, _END))
        return (
            tf.where(is_over, end, position + size),
            tf.where(exif_here, segment, exif),
            tf.where(xmp_here, segment, xmp),
        )

    return _orientation(*_read_parts(read_segment, start=0, end=end))


def png_orientation(content: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a PNG file, int32, 1 to 8; 1 is upright.

    Args:
      content: string scalar, the bytes of the file.
    """
    padded = tf.strings.join([content, tf.constant(b"\0" * 8)])
    end = tf.strings.length(content)

    def read_chunk(position, exif, xmp):
        high, *low = tf.unstack(_bytes(padded, position, 4), 4)
        length = (high * 256 + low[0]) * 65536 + low[1] * 256 + low[2]
        # More than there are, or, from 2^31 on, a negative number.
        length = tf.where((length < 0) | (length > end), end, length)
        kind = tf.strings.substr(padded, position + 4, 4)
        chunk = tf.strings.substr(padded, position + 8, length)
        exif_here = tf.equal(kind, b"eXIf") & tf.equal(exif, b"")
        xmp_here = tf.equal(kind, b"iTXt") & _begins(chunk, _XMP_OF_PNG)
        return (
            # Length, kind and checksum are 4 bytes each.
            position + 12 + length,
            tf.where(exif_here, chunk, exif),
            tf.where(xmp_here, chunk, xmp),
        )

    return _orientation(*_read_parts(read_chunk, start=_PNG_HEAD, end=end))


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors an image as its file asks for.

    Args:
      image: [h, w, c].
      orientation: int32, 1 to 8.

    Returns:
      the same pixels, [h, w, c] or [w, h, c].
    """

    def changed(orientations, change, image):
        wanted = tf.reduce_any(tf.equal(orientation, orientations))
        return tf.cond(wanted, lambda: change(image), lambda: image)

    image = changed((5, 6, 7, 8), lambda x: tf.transpose(x, [1, 0, 2]), image)
    image = changed((2, 3, 6, 7), lambda x: tf.reverse(x, [1]), image)
    return changed((3, 4, 7, 8), lambda x: tf.reverse(x, [0]), image)


def _read_parts(read_part, start: int, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Calls `read_part` from part to part; returns the EXIF data and the XMP."""
    _, exif, xmp = tf.while_loop(
        lambda position, *_: position < end,
        read_part,
        (tf.constant(start), tf.constant(b""), tf.constant(b"")),
        maximum_iterations=MAX_PARTS,
    )
    return exif, xmp


def _orientation(exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """Returns what EXIF data say, else what XMP says, else 1."""
    for _ in range(2):  # Some programs write the prefix twice.
        start = tf.where(_begins(exif, _EXIF), len(_EXIF), 0)
        exif = tf.strings.substr(exif, start, tf.strings.length(exif))
    found = tf.concat([_of_exif(exif), [_of_xmp(xmp)]], axis=0)[0]
    return tf.where((found >= 1) & (found <= 8), found, 1)


def _of_exif(exif: tf.Tensor) -> tf.Tensor:
    """Returns the orientations in the first directory of EXIF data, int32 [0..]."""
    data = tf.cast(tf.io.decode_raw(exif, tf.uint8), tf.int64)
    size = tf.size(data, tf.int64)
    data = tf.concat([data, [0]], axis=0)
    is_little = _begins(exif, b"II")

    def number(positions, length):
        """Reads whole numbers; beyond the end there are zeros."""
        places = positions[..., tf.newaxis] + tf.range(length, dtype=tf.int64)
        values = tf.gather(data, tf.minimum(places, size))
        powers = [256**n for n in range(length)]
        powers = tf.where(
            is_little,
            tf.constant(powers, tf.int64),
            tf.constant(powers[::-1], tf.int64),
        )
        return tf.reduce_sum(values * powers, axis=-1)

    start = number(tf.constant(4, tf.int64), 4)
    is_exif = tf.reduce_any(tf.equal(tf.strings.substr(exif, 0, 4), _TIFF))
    # A directory that was cut off has fewer entries than it says.
    complete = tf.maximum((size - start - 2) // _ENTRY, 0)
    count = tf.where(is_exif, tf.minimum(number(start, 2), complete), 0)
    entries = start + 2 + _ENTRY * tf.range(count)
    kinds = number(entries + 2, 2)
    counts = number(entries + 4, 4)
    values = tf.zeros_like(kinds)
    is_whole = counts > 0
    for kind, length in _TYPES.items():
        is_kind = tf.equal(kinds, kind)
        # What does not fit in the entry is at the place that the entry names.
        total = counts * length
        places = tf.where(total > 4, number(entries + 8, 4), entries + 8)
        values = tf.where(is_kind, number(places, length), values)
        is_whole &= ~is_kind | (places + total <= size)
    is_orientation = tf.equal(number(entries, 2), _ORIENTATION) & is_whole
    values = tf.boolean_mask(values, is_orientation)
    return tf.cast(tf.minimum(values, 9), tf.int32)


def _of_xmp(xmp: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in XMP, int32; 0 if it says none."""
    # The tag is an attribute, ="6", or an element, >6.
    after = tf.strings.split(xmp, _XMP_TAG, maxsplit=1)
    after = tf.concat([after, [b"", b""]], axis=0)[1]
    padded = tf.strings.join([after, tf.constant(b"   ")])
    start = tf.where(_begins(after, b'="'), 2, tf.where(_begins(after, b">"), 1, 0))
    digit = tf.strings.substr(padded, start, 1)
    digits = tf.constant([str(number).encode() for number in range(10)])
    return tf.reduce_sum(tf.where(tf.equal(digits, digit), tf.range(10), 0))


def _begins(text: tf.Tensor, prefix: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(text, 0, len(prefix)), prefix)


def _bytes(text: tf.Tensor, position: tf.Tensor, length: int) -> tf.Tensor:
    """Returns bytes of a string, int32 [length]."""
    values = tf.io.decode_raw(tf.strings.substr(text, position, length), tf.uint8)
    return tf.cast(tf.ensure_shape(values, [length]), tf.int32)
