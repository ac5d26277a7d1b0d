"""The methods by name."""

from collections.abc import Callable, Sequence

from absl import flags

from afd_tf.distill import afd, dml, independent
from afd_tf.distill.method import Method
from afd_tf.errors import unknown_name
from afd_tf.models import Peer

__all__ = ["METHODS", "Method", "method_from_flags"]

METHODS: dict[str, Callable[[Sequence[Peer]], Method]] = {
    "afd": afd.from_flags,
    "dml": dml.from_flags,
    "independent": independent.from_flags,
}

_METHOD = flags.DEFINE_string("method", "afd", f"One of {', '.join(METHODS)}.")


def method_from_flags(peers: Sequence[Peer]) -> Method:
    """Builds the method that --method names, with its own flags.

    Args:
      peers: built networks.

    Raises:
      UserError: an unknown method, or settings that it refuses.
    """
    if _METHOD.value not in METHODS:
        raise unknown_name("method", _METHOD.value, METHODS)
    return METHODS[_METHOD.value](peers)
