"""Orders and choices from seeds."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf.data.sampling import balanced_repeats
from tests.data.numbered import collect, numbered, numbers_of


def test_shuffling_is_fair():
    # Where image 0 of 10 comes in the order, over 3,000 epochs.
    batches = numbered(10).train_batches(batch_size=10, seed=0, epochs=3000)
    places = [int(np.argmin(numbers_of(batch))) for batch in collect(batches)]
    seen = np.bincount(places, minlength=10)
    assert np.sum((seen - 300) ** 2 / 300) < 34  # 9 degrees of freedom: p = 1e-4


def repeats_of(labels, epochs, seed=0):
    """How often each image is drawn in each epoch, [epochs, n]."""
    labels = np.array(labels, np.int32)
    each = tf.data.Dataset.range(epochs).map(
        lambda epoch: balanced_repeats(labels, seed, epoch)
    )
    return np.stack(list(each.as_numpy_iterator()))


@pytest.mark.parametrize("sizes", [(7, 1, 3), (20, 0, 2), (1, 1, 1), (9, 0, 0)])
def test_balanced_draws_go_round_the_classes_and_round_their_images(sizes):
    labels = np.repeat([0, 1, 2], sizes)
    np.random.default_rng(0).shuffle(labels)
    repeats = repeats_of(labels, 12)
    np.testing.assert_array_equal(repeats.sum(1), len(labels))
    so_far = np.cumsum(repeats, axis=0)
    for drawn in (*repeats, *so_far):
        totals = [drawn[labels == label].sum() for label in set(labels)]
        assert np.ptp(totals) <= 1
    for drawn in so_far:
        for label in set(labels):
            assert np.ptp(drawn[labels == label]) <= 1


def test_balanced_draws_are_fair():
    # 6 draws of each class in an epoch: every third one begins to go round the 9 images
    # anew, and draws 6 of them.
    repeats = repeats_of(np.repeat([0, 1], [9, 3]), 900)[::3, :9]
    assert set(repeats.sum(1)) == {6} and set(np.unique(repeats)) == {0, 1}
    # Variance of a draw without putting back: 300 (2/3) (1/3) (9/8) over 8 degrees.
    chi_square = np.sum((repeats.sum(0) - 200) ** 2) / (300 * 2 / 9 * 9 / 8)
    assert chi_square < 32  # p = 1e-4
    # Pairs of images are not drawn together more often than others.
    together = repeats.T @ repeats
    pairs = together[np.triu_indices(9, 1)]
    assert abs(pairs - 300 * (6 * 5) / (9 * 8)).max() < 4.5 * np.sqrt(300 * 0.243)
    other = repeats_of(np.repeat([0, 1], [9, 3]), 3, seed=1)
    assert (other != repeats_of(np.repeat([0, 1], [9, 3]), 3)).any()
