"""A barrier that all workers reach before TensorFlow waits for them.

TensorFlow waits for up to an hour, without a message, holding the GIL, so that signals
cannot end it; this can be ended, and names the workers that are missing.

The leader, the same worker as TensorFlow's, listens at its address of TF_CONFIG until
all others have connected, and tells them to go on. Then TensorFlow takes that address
over; a worker that was lost and connects later reaches TensorFlow.
"""

import contextlib
import selectors
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from afd_tf.base.errors import UserError

_GO = b"go"
# What a client of TensorFlow's says first: the preface of HTTP/2.
_PREFACE = b"PRI "

_QUIET_SECONDS = 5.0
_BINDING_SECONDS = 30.0
_CALL_SECONDS = 10.0
_PAUSE_SECONDS = 0.5


def wait_for_all_workers(cluster: Mapping[str, Sequence[str]], task: Mapping) -> None:
    """Returns when all workers have called it, or are already in TensorFlow.

    Args:
      cluster: of TF_CONFIG: addresses "host:port" by the kind of task.
      task: of TF_CONFIG: "type" and "index" of this worker.

    Raises:
      UserError: the leader's port is taken.
    """
    addresses = {
        f"{kind} {index}": address
        for kind in ("chief", "worker")
        for index, address in enumerate(cluster.get(kind, ()))
    }
    own = f"{task['type']} {task['index']}"
    leader = next(iter(addresses), None)
    if own == leader:
        _lead(addresses.pop(own), addresses)
    elif own in addresses:
        _follow(own, leader, addresses[leader])


def _lead(address: str, others: Mapping[str, str]) -> None:
    waiting = _Waiting()
    present: dict[socket.socket, str] = {}
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        listener = stack.enter_context(_listener(address))
        selector.register(listener, selectors.EVENT_READ)
        while absent := sorted(others.keys() - present.values()):
            waiting.note(f"{name} ({others[name]})" for name in absent)
            for key, _ in selector.select(_PAUSE_SECONDS):
                if key.fileobj is listener:
                    connection = stack.enter_context(listener.accept()[0])
                    selector.register(connection, selectors.EVENT_READ)
                    continue
                said = _received(key.fileobj)
                name = said.decode(errors="replace")
                if said.startswith(_PREFACE):
                    # A worker that has passed, and waits for this one in TensorFlow.
                    absent = ()
                elif name in others:
                    present[key.fileobj] = name
                else:
                    present.pop(key.fileobj, None)
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            if not absent:
                break
        for connection in present:
            with contextlib.suppress(OSError):
                connection.sendall(_GO)


def _follow(own: str, leader: str, address: str) -> None:
    waiting = _Waiting()
    host, port = _split(address)
    while True:
        waiting.note([f"{leader} ({address})"])
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, port), _CALL_SECONDS) as connection,
        ):
            connection.sendall(own.encode())
            # Nothing, at the end of a connection: the leader is gone, or starts again.
            # Anything but "go" is its TensorFlow, which greets each connection.
            if _received(connection):
                return
        time.sleep(_PAUSE_SECONDS)


class _Waiting:
    """Names the missing workers once waiting takes long, and when they change."""

    def __init__(self):
        self._since = time.monotonic()
        self._said: list[str] = []

    def note(self, names) -> None:
        names = list(names)
        if time.monotonic() - self._since > _QUIET_SECONDS and names != self._said:
            self._said = names
            print(f"waiting for {', '.join(names)}.", file=sys.stderr, flush=True)


def _listener(address: str) -> socket.socket:
    """Returns a socket that listens at the address that TensorFlow will use."""
    _, port = _split(address)
    until = time.monotonic() + _BINDING_SECONDS
    while True:
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(
                    ("", port), family=socket.AF_INET6, dualstack_ipv6=True
                )
            return socket.create_server(("", port))
        except OSError as error:
            # The previous process at this address may be about to end.
            if time.monotonic() > until:
                raise UserError(
                    f"TF_CONFIG gives {address} to this worker, but its port cannot be "
                    f"used: {error.strerror}. End what uses it, or give another port."
                ) from error
        time.sleep(_PAUSE_SECONDS)


def _received(connection: socket.socket) -> bytes:
    """Returns the next bytes; none where the other side is gone or silent."""
    try:
        return connection.recv(64)
    except OSError:
        return b""


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
