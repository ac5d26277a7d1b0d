"""Workers that come in any order, go and come back, and one that is further."""

import socket
import threading
import time

import pytest

from afd_tf import rendezvous
from afd_tf.communication import free_addresses
from afd_tf.errors import UserError

# No test sends SIGTERM: tests/workers_test.py does, to whole processes.


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(rendezvous, "_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(rendezvous, "_PAUSE_SECONDS", 0.05)


class Workers:
    """Threads that meet at addresses of their own."""

    def __init__(self, count, chief=False):
        addresses = free_addresses(count)
        self.cluster = {"worker": addresses}
        if chief:
            self.cluster = {"chief": addresses[:1], "worker": addresses[1:]}
        self.met = []
        self.threads = []

    def come(self, index, kind="worker"):
        def meet():
            rendezvous.meet(self.cluster, {"type": kind, "index": index})
            self.met.append((kind, index))

        self.threads.append(threading.Thread(target=meet, daemon=True))
        self.threads[-1].start()

    @property
    def leader(self):
        """Host and port."""
        host, port = self.cluster["worker"][0].split(":")
        return host, int(port)

    def all_have_met(self):
        for thread in self.threads:
            thread.join(timeout=10)
        return len(self.met) == len(self.threads)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_nobody_goes_on_before_the_last_has_come(order):
    workers = Workers(3)
    for index in order:
        time.sleep(0.3)
        assert workers.met == []
        workers.come(index)
    assert workers.all_have_met()


def test_the_chief_leads():
    workers = Workers(2, chief=True)
    workers.come(0)
    workers.come(0, "chief")
    assert workers.all_have_met()


def test_says_whom_it_waits_for_until_they_are_there(capfd):
    workers = Workers(3)
    _, second, third = workers.cluster["worker"]
    workers.come(0)
    time.sleep(0.5)
    workers.come(1)
    time.sleep(0.5)
    workers.come(2)
    assert workers.all_have_met()
    assert capfd.readouterr().err.splitlines() == [
        f"waiting for worker 1 ({second}), worker 2 ({third}).",
        f"waiting for worker 2 ({third}).",
    ]


def test_says_nothing_where_all_come_at_once(capfd, monkeypatch):
    monkeypatch.setattr(rendezvous, "_QUIET_SECONDS", 5.0)
    workers = Workers(2)
    workers.come(0)
    workers.come(1)
    assert workers.all_have_met()
    assert capfd.readouterr().err == ""


def connect(address):
    for _ in range(100):
        try:
            return socket.create_connection(address, timeout=5)
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nobody listens at {address}")


def test_a_worker_that_leaves_again_is_waited_for_again():
    workers = Workers(2)
    workers.come(0)
    with connect(workers.leader) as lost:
        lost.sendall(b"who is there?")
        assert lost.recv(64) == b""  # a stranger is hung up on
    assert workers.met == []
    workers = Workers(3)
    workers.come(0)
    with connect(workers.leader) as lost:
        lost.sendall(b"worker 1")
        time.sleep(0.3)
    time.sleep(0.3)
    workers.come(2)
    time.sleep(0.5)
    assert workers.met == []
    workers.come(1)
    assert workers.all_have_met()


def test_a_worker_that_waits_in_tensorflow_keeps_nobody():
    workers = Workers(3)
    workers.come(0)
    workers.come(1)
    time.sleep(0.3)
    with connect(workers.leader) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert workers.all_have_met()


def test_a_leader_that_has_gone_on_is_followed():
    workers = Workers(2)
    with socket.create_server(workers.leader) as tensorflow:
        workers.come(1)
        connection, _ = tensorflow.accept()
        with connection:
            # Settings, the first that a server of HTTP/2 says.
            connection.sendall(b"\0\0\0\4\0\0\0\0\0")
            assert workers.all_have_met()


def test_a_leader_that_begins_anew_is_called_again():
    workers = Workers(2)
    with socket.create_server(workers.leader) as leader:
        workers.come(1)
        leader.accept()[0].close()
    time.sleep(0.3)
    assert workers.met == []
    workers.come(0)
    assert workers.all_have_met()


def test_a_port_that_is_taken_is_one_line(monkeypatch):
    monkeypatch.setattr(rendezvous, "_BINDING_SECONDS", 0.2)
    workers = Workers(2)
    address = workers.cluster["worker"][0]
    with (
        socket.create_server(workers.leader),
        pytest.raises(UserError, match=rf"TF_CONFIG gives {address} to this worker"),
    ):
        rendezvous.meet(workers.cluster, {"type": "worker", "index": 0})
