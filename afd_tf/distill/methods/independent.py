"""Each peer alone: the baseline of every table."""

from afd_tf.distill.labels import Labels
from afd_tf.distill.method import Method, method_settings_from_flags
from afd_tf.distill.metrics import Values, top1_correct
from afd_tf.distill.objective import Outputs


class Independent(Method):
    """L_k = CE(y, z_k); the peers share nothing but the images."""

    def compute_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns the cross-entropy and the accuracy of each peer."""
        values, monitors = {}, {}
        for number, output in enumerate(outputs):
            peer = f"peer_{number}"
            values[f"{peer}/logit"] = self.label_loss(labels, output.logits)
            monitors[f"{peer}/accuracy"] = top1_correct(labels, output.logits)
        return values, monitors


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return method_settings_from_flags()
