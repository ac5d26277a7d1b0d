"""The description of a data set."""

import dataclasses

import pytest

from tests import tiny


@pytest.mark.parametrize(
    ("shape", "images"),
    [
        ((8, 8, 1), 256),
        ((32, 32, 3), 256),
        ((90, 90, 3), 256),
        ((224, 224, 3), 41),
        ((2000, 2000, 3), 1),
    ],
)
def test_large_images_are_evaluated_in_small_batches(shape, images):
    info = dataclasses.replace(tiny.info(), image_shape=shape)
    assert info.evaluation_batch == images
