"""Orders and choices from seeds."""

import numpy as np

from afd_tf.data.sampling import stratified_choice
from tests.data.numbered import collect, numbered, numbers_of


def test_shuffling_is_fair():
    # Where image 0 of 10 comes in the order, over 3,000 epochs.
    batches = numbered(10).train_batches(batch_size=10, seed=0, epochs=3000)
    places = [int(np.argmin(numbers_of(batch))) for batch in collect(batches)]
    seen = np.bincount(places, minlength=10)
    assert np.sum((seen - 300) ** 2 / 300) < 34  # 9 degrees of freedom: p = 1e-4


def test_stratified_choice():
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    np.random.default_rng(0).shuffle(labels)
    chosen = stratified_choice(labels, 100, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [50, 30, 20])
    assert len(set(chosen.tolist())) == 100
    np.testing.assert_array_equal(chosen, stratified_choice(labels, 100, seed=0))
    assert (chosen != stratified_choice(labels, 100, seed=1)).any()
    assert len(stratified_choice(labels, 0, seed=0)) == 0
    everything = stratified_choice(labels, 1000, seed=0)
    np.testing.assert_array_equal(everything, np.arange(1000))
