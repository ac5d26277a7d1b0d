"""TensorFlow's decoders beside Pillow's, and the crop that is decoded alone."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from afd_tf.data import augment, decoding, image_files, random_crop
from tests.data.encoded import TRANSPOSITIONS, file_of, scene

ORIENTATIONS = range(1, 9)


def encoded(contents, orientation=1):
    return decoding.EncodedImage(tf.constant(contents), tf.constant(orientation))


def seed(number):
    return tf.constant([7, number], tf.int64)


@tf.function
def cropped(image, seed):
    return decoding.random_resized_crop_flip_encoded(
        image, seed, size=(24, 20), channels=3
    )


@tf.function
def decoded_then_cropped(image, seed):
    """The oracle: the same crop of the whole image."""
    pixels = decoding.decode_upright(image, channels=3)
    return random_crop.random_resized_crop_flip_one(pixels, seed, size=(24, 20))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpegs_have_pillows_pixels(orientation, subsampling):
    contents = file_of(
        scene(37, 50),
        "jpeg",
        orientation,
        subsampling=subsampling,
        progressive=orientation % 2 == 0,
    )
    found = decoding.decode_upright(encoded(contents, orientation), channels=3)
    expected = image_files.read_image(io.BytesIO(contents), channels=3, name="x")
    assert found.shape == expected.shape == ((50, 37, 3), (37, 50, 3))[orientation < 5]
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("encoding", "file_channels"),
    [("png", 1), ("png", 3), ("gif", 3), ("bmp", 3), ("jpeg", 1), ("jpeg", 3)],
)
def test_other_files_have_pillows_pixels(encoding, file_channels):
    contents = file_of(scene(9, 14, file_channels), encoding)
    for channels in {file_channels, 3}:
        found = decoding.decode_upright(encoded(contents), channels=channels)
        expected = image_files.read_image(
            io.BytesIO(contents), channels=channels, name="x"
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(300, 217), (64, 301), (40, 33)])
def test_an_evaluation_sees_what_pillow_gives(size):
    contents = file_of(scene(*size), "jpeg", 6)
    for image_size in (32, (30, 57)):
        shape = (image_size, image_size) if image_size == 32 else image_size
        pixels = decoding.decode_upright(encoded(contents, 6), channels=3)
        found = augment.central_crop(pixels, size=shape).numpy()
        expected = image_files.read_image(
            io.BytesIO(contents), channels=3, image_size=image_size, name="x"
        )
        assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_stored_box_of_a_crop(orientation):
    stored = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)

    def upright_of(pixels):
        image = Image.fromarray(pixels)
        if orientation in TRANSPOSITIONS:
            image = image.transpose(TRANSPOSITIONS[orientation])
        return np.asarray(image)

    upright = upright_of(stored)
    for box in ((0, 0, 2, 3), (1, 2, 4, 3), (3, 4, 2, 2), (0, 0, *upright.shape)):
        top, left, height, width = box
        wanted = upright[top : top + height, left : left + width]
        part = decoding.stored_box(
            tf.constant(box),
            tf.constant(orientation),
            height=upright.shape[0],
            width=upright.shape[1],
        )
        top, left, height, width = part.numpy()
        found = upright_of(stored[top : top + height, left : left + width])
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_crop_is_that_of_the_whole_image(orientation):
    image = encoded(
        file_of(scene(70, 90), "jpeg", orientation, quality=95), orientation
    )
    for number in range(8):
        found = cropped(image, seed(number)).numpy().astype(int)
        expected = decoded_then_cropped(image, seed(number)).numpy()
        # At the edges of the crop, the colours have no neighbours to be smoothed with.
        assert np.abs(found - expected).mean() < 0.5
        assert np.abs(found - expected)[1:-1, 1:-1].max() <= 4


@pytest.mark.parametrize("encoding", ["png", "gif", "bmp"])
def test_a_crop_of_another_file(encoding):
    image = encoded(file_of(scene(70, 90), encoding))
    for number in range(3):
        np.testing.assert_array_equal(
            cropped(image, seed(number)), decoded_then_cropped(image, seed(number))
        )


@pytest.mark.parametrize("orientation", [1, 7])
@pytest.mark.parametrize("scale", [2, 5, 9, 17])
def test_a_reduced_crop_is_at_the_same_place(scale, orientation):
    # A slope that rises by 200 over the image shows a displacement.
    height, width = 48 * scale + 3, 40 * scale + 5
    rows = np.linspace(20, 220, height)[:, np.newaxis].repeat(width, 1)
    columns = np.linspace(20, 220, width)[np.newaxis].repeat(height, 0)
    pixels = np.stack([rows, columns, rows], axis=-1).round().astype(np.uint8)
    contents = file_of(pixels, "jpeg", orientation, quality=100, subsampling=0)
    image = encoded(contents, orientation)
    for number in range(6):
        found = cropped(image, seed(number)).numpy().astype(int)
        expected = decoded_then_cropped(image, seed(number)).numpy()
        assert np.abs(found - expected).max() <= 2


def test_only_as_much_as_needed_is_decoded(monkeypatch):
    asked = []
    decode = tf.image.decode_and_crop_jpeg

    def spy(contents, window, *, ratio, **rest):
        crop = decode(contents, window, ratio=ratio, **rest)
        asked.append((ratio, crop.shape))
        return crop

    monkeypatch.setattr(tf.image, "decode_and_crop_jpeg", spy)
    image = encoded(file_of(scene(500, 400), "jpeg"))
    for number in range(12):
        cropped.python_function(image, seed(number))
    assert {ratio for ratio, _ in asked} == {2, 4, 8}
    for ratio, (height, width, _) in asked:
        assert min(height // 24, width // 20) >= 2
        assert ratio == 8 or min(height / 24, width / 20) < 4.2


def test_the_same_seed_gives_the_same_bytes():
    image = encoded(file_of(scene(70, 90), "jpeg"))
    tf.random.set_seed(1)
    first = cropped(image, seed(3)).numpy()
    tf.random.set_seed(2)
    np.testing.assert_array_equal(cropped(image, seed(3)), first)
    assert (cropped(image, seed(4)).numpy() != first).any()
