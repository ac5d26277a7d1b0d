"""Files in memory: the same images in the same order, read once."""

import numpy as np
import pytest

from tests.data.numbered import collect, numbered, numbers_of


def test_each_file_is_read_once_and_the_order_stays():
    streamed = numbered(37, streamed=True)
    held = numbered(37, streamed=True, held=True)
    source = held._splits["train"]._source._source
    assert source.times_read.sum() == 0
    arguments = {"batch_size": 8, "seed": 3, "epochs": 3, "first_step": 2}
    for expected, found in zip(
        collect(streamed.train_batches(**arguments)),
        collect(held.train_batches(**arguments)),
        strict=True,
    ):
        np.testing.assert_array_equal(found["image"], expected["image"])
        np.testing.assert_array_equal(found["label"], expected["label"])
    np.testing.assert_array_equal(source.times_read, np.ones(37))


@pytest.mark.parametrize("held", [False, True])
def test_a_selection_of_the_images(held):
    reader = numbered(20, streamed=True, held=held)._splits["test"]
    chosen = np.array([2, 3, 11, 19])
    selected = reader.select(chosen).select(np.array([0, 2, 3]))
    assert len(selected) == 3
    np.testing.assert_array_equal(selected.labels(), [2, 2, 1])
    images = selected._cropped(selected._indices).map(lambda image, _: image)
    numbers = numbers_of({"image": np.stack(collect(images))})
    np.testing.assert_array_equal(numbers, [2, 11, 19])
