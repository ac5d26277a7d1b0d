"""Deep mutual learning (Zhang et al., CVPR 2018), with a temperature."""

from collections.abc import Sequence

import tensorflow as tf
from absl import flags

from afd_tf.distill import losses
from afd_tf.distill.method import Method, Values, hits, settings_from_flags
from afd_tf.distill.topology import teachers
from afd_tf.errors import UserError
from afd_tf.models import Peer, PeerOutput

_TEMPERATURE = flags.DEFINE_float(
    "temperature", 3.0, "T of the peers' softened class probabilities."
)
_LOGIT_WEIGHT = flags.DEFINE_float(
    "logit_weight",
    1.0,
    "Of the divergence from the other peers' probabilities; 0 switches it off.",
    lower_bound=0,
)
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "mutual: each peer learns from all others (default of dml); cyclic: from the one "
    "before it (default of afd). With two peers they are the same.",
)


class MutualLearning(Method):
    """L_k = CE(y, z_k) + w * mean over teachers j of T^2 KL(z_j || z_k).

    It is also the logit loss of AFD. Zhang et al. have T = 1; T = 3 is recalled for
    AFD and confirmed for its authors' other work.

    Args:
      peers: two or more.
      topology: who learns from whom; see `afd_tf.distill.topology.teachers`.
      temperature: T > 0.
      logit_weight: w; 0 leaves the cross-entropy alone.
      **kwargs: of `Method`.

    Raises:
      UserError: fewer than two peers, an unknown topology, or T not above 0.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        topology: str = "mutual",
        temperature: float = 3.0,
        logit_weight: float = 1.0,
        **kwargs,
    ):
        if temperature <= 0:
            raise UserError(f"--temperature={temperature} should be above 0, e.g. 3.")
        self.teachers = teachers(topology, len(peers))
        super().__init__(peers, **kwargs)
        self.temperature = temperature
        self.logit_weight = logit_weight

    def logit_losses(
        self, labels: tf.Tensor, outputs: Sequence[PeerOutput]
    ) -> tuple[Values, Values]:
        """Returns L_k and, as monitors, its two parts and the accuracy."""
        values, monitors = {}, {}
        for number, output in enumerate(outputs):
            peer = f"peer_{number}"
            loss = losses.cross_entropy(labels, output.logits)
            monitors[f"{peer}/accuracy"] = hits(labels, output.logits)
            monitors[f"{peer}/loss_cross_entropy"] = loss
            if self.logit_weight:
                divergences = [
                    losses.softened_divergence(
                        outputs[teacher].logits, output.logits, self.temperature
                    )
                    for teacher in self.teachers[number]
                ]
                divergence = tf.add_n(divergences) / len(divergences)
                monitors[f"{peer}/loss_divergence"] = divergence
                loss += self.logit_weight * divergence
            values[f"{peer}/logit"] = loss
        return values, monitors


def mutual_settings_from_flags(default_topology: str) -> dict:
    """Returns the keyword arguments of `MutualLearning` from the command line."""
    return {
        "topology": _TOPOLOGY.value or default_topology,
        "temperature": _TEMPERATURE.value,
        "logit_weight": _LOGIT_WEIGHT.value,
        **settings_from_flags(),
    }


def from_flags(peers: Sequence[Peer]) -> MutualLearning:
    """Builds the method from the command line."""
    return MutualLearning(peers, **mutual_settings_from_flags("mutual"))
