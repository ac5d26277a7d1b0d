"""Streams read no more than they have to; `readers_test` tries their batches."""

import functools

import numpy as np

from tests.data.numbered import collect, numbered


def test_a_worker_reads_its_share_of_a_stream_alone():
    dataset = numbered(46, streamed=True)
    source = dataset._splits["train"]._source
    for make in (
        functools.partial(dataset.train_batches, batch_size=8, seed=0, epochs=1),
        functools.partial(dataset.evaluation_batches, "test", batch_size=8),
    ):
        read = []
        for worker in range(3):
            source.times_read[:] = 0
            collect(make(replicas=6, own=range(2 * worker, 2 * worker + 2)))
            read.append(source.times_read.copy())
        np.testing.assert_array_equal(sum(read), np.ones(46))
        assert max(map(np.sum, read)) < 20
