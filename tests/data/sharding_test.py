"""Shares of batches whose images are mixed with partners; `readers_test` has others."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from afd_tf.data.sharding import Share


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 40),
    workers=st.integers(1, 5),
    replicas=st.integers(1, 3),
    data=st.data(),
)
def test_a_share_with_the_partners_of_its_images(size, workers, replicas, data):
    worker = data.draw(st.integers(0, workers - 1))
    own = range(worker * replicas, (worker + 1) * replicas)
    share = Share(workers * replicas, own)
    places = np.arange(size)
    mine = places[share.holds(places, size)]
    assert share.count(size, with_partners=False) == len(mine)
    both = np.union1d(mine, size - 1 - mine)
    assert share.count(size, with_partners=True) == len(both)
    # Of the part that is read, too, image i's partner is the i-th last.
    np.testing.assert_array_equal(both[::-1], size - 1 - both)
    found = share.without_partners({"place": tf.constant(both)}, tf.constant(size))
    np.testing.assert_array_equal(found["place"], mine)
