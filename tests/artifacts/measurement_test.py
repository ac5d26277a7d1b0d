"""The latency of an exported file; exporter_test.py has what else is measured."""

import itertools

import numpy as np

from afd_tf.artifacts import measurement


def test_latency_is_the_median_without_the_first_call(monkeypatch):
    # The calls take 900, 1, 2, ..., 10 ms, with a second between them.
    seconds = itertools.chain.from_iterable(
        (number, number + duration / 1e3)
        for number, duration in enumerate((900, *range(1, 11)))
    )
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(seconds))

    class Network:
        calls = 0

        def logits(self, images):
            assert images.shape == (2, 8, 8, 1)
            self.calls += 1

    network = Network()
    images = np.zeros((2, 8, 8, 1), np.uint8)
    assert measurement._latency(network, images) == 5.5
    assert network.calls == 11
