"""The peer of a run that --peer chooses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from afd_tf.base.errors import UserError, unknown_name

if TYPE_CHECKING:
    from afd_tf.models import Peer

_PEER = flags.DEFINE_string(
    "peer",
    None,
    "Number (from 0) or name of the run's peer to take. Default: the one with the "
    "fewest parameters.",
)


def peer_from_flags() -> str | None:
    """Returns --peer; None where it is not given."""
    return _PEER.value


def chosen_peer_from_flags(peers: Sequence["Peer"]) -> int:
    """Returns the number of the peer that --peer chooses.

    Raises:
      UserError: there is no such peer, or several have that name.
    """
    return chosen_or_smallest(peers, _PEER.value)


def chosen_or_smallest(peers: Sequence["Peer"], choice: str | int | None) -> int:
    """Returns the number of a peer.

    Args:
      peers: all peers of a run.
      choice: number or name; None is the one with the fewest parameters.

    Raises:
      UserError: there is no such peer, or several have that name.
    """
    if choice is None:
        return min(range(len(peers)), key=lambda number: peers[number].parameters)
    return choose_peer([peer.name for peer in peers], choice)


def choose_peer(names: Sequence[str], choice: str | int) -> int:
    """Returns the number of a peer.

    Args:
      names: of all peers, in their order.
      choice: number (from 0) or name.

    Raises:
      UserError: there is no such peer, or several have that name.
    """
    choice = str(choice)
    if choice.isdecimal():
        if int(choice) < len(names):
            return int(choice)
        raise UserError(
            f"there is no peer {choice}: there are {len(names)}, counted from 0 "
            f"({', '.join(names)})."
        )
    if choice not in names:
        raise unknown_name("peer", choice, names)
    if names.count(choice) > 1:
        raise UserError(
            f"{names.count(choice)} peers are called {choice!r}: give the number of "
            f"one of {', '.join(names)}, counted from 0."
        )
    return names.index(choice)
