"""Without TensorFlow, an evaluation sees what a `Dataset` shows it."""

import numpy as np
import pytest

from afd_tf import data
from afd_tf.base.errors import UserError
from afd_tf.data.array_dataset import open_arrays
from tests.data.encoded import file_of, scene

# Height, width, EXIF orientation. Of 300 pixels, 0.875 is half a pixel's work.
PHOTOS = ((300, 400, 1), (300, 260, 6), (180, 300, 3), (301, 299, 8))


def arrays(dataset, name, image_size=None):
    return open_arrays(
        name,
        expected=dataset.info,
        image_size=image_size,
        cache_dir=None,
        cache_gigabytes=1.0,
        data_dir=None,
        download=False,
        train_split=None,
        test_split=None,
    )


def everything(dataset, split="test"):
    images, labels = zip(*dataset.numpy_batches(split, batch_size=7), strict=True)
    assert all(len(each) == 7 for each in labels[:-1])
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture
def photos(tmp_path):
    for label in "ab":
        for split in ("train", "test"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for number, (height, width, orientation) in enumerate(PHOTOS):
                pixels = scene(height, width, seed=ord(label) + number)
                encoded = file_of(pixels, "jpeg", orientation)
                (folder / f"{number}.jpg").write_bytes(encoded)
    return f"folder:{tmp_path / 'photos'}"


def test_digits():
    dataset = data.load("digits")
    found = arrays(dataset, "digits")
    assert found.info.examples == {"train": 1437, "validation": 0, "test": 360}
    for mine, theirs in zip(everything(found), everything(dataset), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(UserError, match="no split 'validation'; it has train, test"):
        next(found.numpy_batches("validation", batch_size=1))


@pytest.mark.parametrize("is_large", [False, True])
def test_streamed_photos(photos, monkeypatch, is_large):
    if is_large:
        monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
    dataset = data.load(photos, image_size=96)
    assert dataset.info.augment == "imagenet"
    images, labels = everything(dataset)
    found, found_labels = everything(arrays(dataset, photos, image_size=96))
    np.testing.assert_array_equal(found_labels, labels)
    assert found.shape == images.shape == (8, 96, 96, 3)
    difference = np.abs(np.int32(found) - images)
    assert difference.max() <= 2
    assert difference.mean() < 0.3


def test_images_that_are_decoded_once(photos):
    """The very same arrays, from the same cache."""
    arguments = {"image_size": 20, "augment": "none"}
    dataset = data.load(photos, **arguments)
    found = arrays(dataset, photos, image_size=20)
    for split in ("train", "test"):
        for mine, theirs in zip(
            everything(found, split), everything(dataset, split), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_another_data_set_is_refused(photos):
    dataset = data.load("digits", image_size=20)
    with pytest.raises(UserError, match=r"has images of shape \(20, 20, 3\)"):
        arrays(dataset, photos, image_size=20)
