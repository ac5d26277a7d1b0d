"""Streams read no more than they have to; `readers_test` tries their batches."""

import functools

import numpy as np

from tests.data.numbered import collect, numbered


def test_a_worker_reads_the_partners_of_its_images_too():
    dataset = numbered(46, streamed=True, mixup=1.0)
    source = dataset._splits["train"]._source
    for worker in range(2):
        source.times_read[:] = 0
        collect(
            dataset.train_batches(
                batch_size=8,
                seed=0,
                epochs=1,
                replicas=6,
                own=range(2 * worker, 2 * worker + 2),
            )
        )
        read = 0
        for size in (8, 8, 8, 8, 8, 6):
            own = range(2 * worker * size // 6, (2 * worker + 2) * size // 6)
            read += len({*own, *(size - 1 - place for place in own)})
        assert source.times_read.max() == 1 and source.times_read.sum() == read


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


def test_pixels_of_an_evaluation_are_decoded_once():
    dataset = numbered(46, streamed=True)
    reader = dataset._splits["test"]
    times_read = reader._source.times_read

    def evaluate():
        times_read[:] = 0
        return [
            batch
            for _ in range(2)
            for batch in collect(
                dataset.evaluation_batches("test", batch_size=10, replicas=2)
            )
        ]

    expected = evaluate()
    assert times_read.max() == 2
    reader._memory_bytes = 46 * np.prod(reader._source.image_shape) - 1
    evaluate()
    assert times_read.max() == 2
    reader._memory_bytes += 1
    found = evaluate()
    assert times_read.max() == 1
    for batch, other in zip(found, expected, strict=True):
        counted = other["weight"] == 1
        np.testing.assert_array_equal(batch["weight"], other["weight"])
        for name in ("image", "label"):
            np.testing.assert_array_equal(batch[name][counted], other[name][counted])
