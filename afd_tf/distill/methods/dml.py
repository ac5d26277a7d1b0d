"""Deep mutual learning (Zhang et al., CVPR 2018), with a temperature."""

from collections.abc import Sequence

from absl import flags

from afd_tf.distill.logit_distillation import (
    LogitDistillation,
    logit_settings_from_flags,
)
from afd_tf.distill.topology import teachers
from afd_tf.models import Peer

_TOPOLOGY = flags.DEFINE_string(
    "topology",
    "mutual",
    "The peers that each peer learns from: mutual is all others; cyclic (the default "
    "of --method=afd) is the one before it. With two peers they are the same.",
)


class MutualLearning(LogitDistillation):
    """L_k = CE(y, z_k) + mean over the other peers j of T^2 KL(z_j || z_k).

    It is also the logit loss of AFD. Zhang et al. have T = 1 and, in their published
    code, the sum over j; T = 3 is recalled for AFD and confirmed for its authors'
    other work.

    Args:
      peers: two or more.
      topology: who learns from whom; see `afd_tf.distill.topology.teachers`.
      **kwargs: of `LogitDistillation`.

    Raises:
      UserError: fewer than two peers, or an unknown topology.
    """

    def __init__(self, peers: Sequence[Peer], *, topology: str = "mutual", **kwargs):
        super().__init__(peers, teachers=teachers(topology, len(peers)), **kwargs)


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return {"topology": _TOPOLOGY.value, **logit_settings_from_flags()}
