import numpy as np

from afd_tf.data.stratification import stratified_choice


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
