"""Workers that come in any order, go and come back, and one that is further."""

import socket
import threading

import pytest

from afd_tf.base.errors import UserError
from afd_tf.benchmarks.communication import free_addresses
from afd_tf.training import startup_barrier

# No test sends SIGTERM: tests/training/workers_test.py does, to whole processes.

_TIMEOUT = 30.0


class Workers:
    """Threads at the barrier with addresses of their own, and what they wait for."""

    def __init__(self, monkeypatch, count, chief=False):
        addresses = free_addresses(count)
        self.cluster = {"worker": addresses}
        if chief:
            self.cluster = {"chief": addresses[:1], "worker": addresses[1:]}
        self.passed = []
        self._threads = []
        self._changed = threading.Condition()
        self._notes = {}
        workers = self

        class Observed(startup_barrier._Waiting):
            def note(self, names):
                names = list(names)
                super().note(names)
                with workers._changed:
                    notes = workers._notes.setdefault(threading.get_ident(), [])
                    notes.append({name.partition(" (")[0] for name in names})
                    workers._changed.notify_all()

        monkeypatch.setattr(startup_barrier, "_Waiting", Observed)

    def start(self, index, kind="worker") -> int:
        """Lets a worker come to the barrier; returns a name for its thread."""

        def run():
            startup_barrier.wait_for_all_workers(
                self.cluster, {"type": kind, "index": index}
            )
            self.passed.append((kind, index))

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()
        return self._threads[-1].ident

    def wait_until(self, thread, *names, after=0) -> int:
        """Waits until a worker waits for exactly these; returns its count of looks.

        Args:
          thread: of the worker.
          names: of those that it is to wait for.
          after: how many of its looks do not count.
        """
        with self._changed:
            assert self._changed.wait_for(
                lambda: set(names) in self._notes.get(thread, [])[after:], _TIMEOUT
            ), self._notes
            return len(self._notes[thread])

    @property
    def leader(self):
        """Host and port."""
        host, port = self.cluster["worker"][0].split(":")
        return host, int(port)

    def all_have_passed(self) -> bool:
        for thread in self._threads:
            thread.join(_TIMEOUT)
        return len(self.passed) == len(self._threads)


@pytest.fixture
def workers(monkeypatch):
    """Returns `Workers`, impatient ones."""
    monkeypatch.setattr(startup_barrier, "_PAUSE_SECONDS", 0.01)
    return lambda count, **kwargs: Workers(monkeypatch, count, **kwargs)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_nobody_goes_on_before_the_last_has_come(workers, order):
    crew = workers(3)
    leader = None
    for number, index in enumerate(order):
        assert crew.passed == []
        thread = crew.start(index)
        if number == 2:
            break
        # The leader knows of all who came; a follower without one waits for it.
        leader = thread if index == 0 else leader
        if leader is None:
            crew.wait_until(thread, "worker 0")
        else:
            absent = {0, 1, 2} - set(order[: number + 1])
            crew.wait_until(leader, *(f"worker {each}" for each in absent))
    assert crew.all_have_passed()


def test_the_chief_leads(workers):
    crew = workers(2, chief=True)
    crew.wait_until(crew.start(0), "chief 0")
    crew.start(0, "chief")
    assert crew.all_have_passed()


def test_names_the_missing_workers_until_they_are_there(workers, monkeypatch, capfd):
    monkeypatch.setattr(startup_barrier, "_QUIET_SECONDS", 0.0)
    crew = workers(3)
    first, second, third = crew.cluster["worker"]
    leader = crew.start(0)
    crew.wait_until(leader, "worker 1", "worker 2")
    crew.start(1)
    crew.wait_until(leader, "worker 2")
    crew.start(2)
    assert crew.all_have_passed()
    lines = capfd.readouterr().err.splitlines()
    # The followers may name the leader, if it is slow to answer.
    assert [line for line in lines if first not in line] == [
        f"waiting for worker 1 ({second}), worker 2 ({third}).",
        f"waiting for worker 2 ({third}).",
    ]


def test_prints_nothing_where_all_come_at_once(workers, monkeypatch, capfd):
    monkeypatch.setattr(startup_barrier, "_QUIET_SECONDS", 2 * _TIMEOUT)
    crew = workers(2)
    crew.start(0)
    crew.start(1)
    assert crew.all_have_passed()
    assert capfd.readouterr().err == ""


def test_a_worker_that_leaves_again_is_waited_for_again(workers):
    crew = workers(3)
    leader = crew.start(0)
    seen = crew.wait_until(leader, "worker 1", "worker 2")
    with socket.create_connection(crew.leader, timeout=_TIMEOUT) as stranger:
        stranger.sendall(b"who is there?")
        assert stranger.recv(64) == b""  # a stranger is hung up on
    with socket.create_connection(crew.leader, timeout=_TIMEOUT) as lost:
        lost.sendall(b"worker 1")
        seen = crew.wait_until(leader, "worker 2", after=seen)
    seen = crew.wait_until(leader, "worker 1", "worker 2", after=seen)
    crew.start(2)
    crew.wait_until(leader, "worker 1", after=seen)
    assert crew.passed == []
    crew.start(1)
    assert crew.all_have_passed()


def test_a_worker_that_waits_in_tensorflow_keeps_nobody(workers):
    crew = workers(3)
    leader = crew.start(0)
    crew.start(1)
    crew.wait_until(leader, "worker 2")
    with socket.create_connection(crew.leader, timeout=_TIMEOUT) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert crew.all_have_passed()


def test_a_leader_that_has_gone_on_is_followed(workers):
    crew = workers(2)
    with socket.create_server(crew.leader) as tensorflow:
        crew.start(1)
        connection, _ = tensorflow.accept()
        with connection:
            # Settings, the first that a server of HTTP/2 says.
            connection.sendall(b"\0\0\0\4\0\0\0\0\0")
            assert crew.all_have_passed()


def test_a_leader_that_starts_again_is_called_again(workers):
    crew = workers(2)
    with socket.create_server(crew.leader) as leader:
        follower = crew.start(1)
        leader.accept()[0].close()
    seen = crew.wait_until(follower, "worker 0")
    crew.wait_until(follower, "worker 0", after=seen)
    assert crew.passed == []
    crew.start(0)
    assert crew.all_have_passed()


def test_a_port_that_is_taken_is_one_line(workers, monkeypatch):
    monkeypatch.setattr(startup_barrier, "_BINDING_SECONDS", 0.1)
    crew = workers(2)
    address = crew.cluster["worker"][0]
    with (
        socket.create_server(crew.leader),
        pytest.raises(UserError, match=f"TF_CONFIG gives {address} to this worker"),
    ):
        startup_barrier.wait_for_all_workers(
            crew.cluster, {"type": "worker", "index": 0}
        )
