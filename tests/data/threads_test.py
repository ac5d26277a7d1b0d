import threading

import pytest

from afd_tf.data import threads
from afd_tf.data.threads import map_in_threads


def test_results_are_in_order(monkeypatch):
    monkeypatch.setattr(threads, "_BLOCK", 7)
    assert list(map_in_threads(lambda x: x * x, range(50))) == [
        x * x for x in range(50)
    ]
    assert list(map_in_threads(str, [])) == []


def test_an_error_ends_the_work(monkeypatch):
    monkeypatch.setattr(threads, "_BLOCK", 10)
    called = set()

    def fail(number):
        called.add(number)
        raise KeyboardInterrupt if number == 3 else ValueError

    with pytest.raises((KeyboardInterrupt, ValueError)):
        list(map_in_threads(fail, range(1000)))
    assert max(called) < 10


def test_several_calls_run_at_once(monkeypatch):
    monkeypatch.setattr(threads, "_THREADS", 2)
    both = threading.Barrier(2, timeout=30)
    assert sorted(map_in_threads(lambda _: both.wait(), range(2))) == [0, 1]
