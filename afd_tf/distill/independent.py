"""Each peer alone: the baseline of every table."""

from collections.abc import Sequence

import tensorflow as tf

from afd_tf.distill import losses
from afd_tf.distill.method import Method, Values, hits, settings_from_flags
from afd_tf.models import Peer, PeerOutput


class Independent(Method):
    """L_k = CE(y, z_k); the peers share nothing but the pictures."""

    def logit_losses(
        self, labels: tf.Tensor, outputs: Sequence[PeerOutput]
    ) -> tuple[Values, Values]:
        """Returns the cross-entropy and the accuracy of each peer."""
        values, monitors = {}, {}
        for number, output in enumerate(outputs):
            peer = f"peer_{number}"
            values[f"{peer}/logit"] = losses.cross_entropy(labels, output.logits)
            monitors[f"{peer}/accuracy"] = hits(labels, output.logits)
        return values, monitors


def from_flags(peers: Sequence[Peer]) -> Independent:
    """Builds the method from the command line."""
    return Independent(peers, **settings_from_flags())
