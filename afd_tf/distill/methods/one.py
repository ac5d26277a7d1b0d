"""On-the-fly native ensemble (ONE: Lan, Zhu and Gong, NeurIPS 2018)."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.base.errors import UserError
from afd_tf.distill import losses
from afd_tf.distill.labels import Labels
from afd_tf.distill.logit_distillation import logit_settings_from_flags, ramp
from afd_tf.distill.method import Method
from afd_tf.distill.metrics import Values, top1_correct
from afd_tf.distill.objective import Objective, Outputs
from afd_tf.models import Peer
from afd_tf.models.batch_normalization import BatchNormalization

_RAMP = flags.DEFINE_float(
    "one_ramp",
    80 / 300,
    "Fraction of the run over which the weight of the divergence of --method=one grows "
    "to 1; with 0 it is 1 from the beginning.",
    lower_bound=0,
    upper_bound=1,
)


class Gate(keras.layers.Layer):
    """The weight of each branch, from the last shared map.

    Average pooling, dense, batch normalization, ReLU, softmax.

    Args:
      branches: how many there are.
    """

    def __init__(self, branches: int, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(branches, dtype="float32")
        self.normalization = BatchNormalization(dtype="float32")

    def call(self, maps: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns float32 [B, branches], whose rows add up to 1, for [B, h, w, c]."""
        pooled = tf.reduce_mean(tf.cast(maps, tf.float32), axis=(1, 2))
        # As a map of one position, which is what the normalization takes.
        values = self.dense(pooled)[:, tf.newaxis, tf.newaxis]
        values = self.normalization(values, training=training)[:, 0, 0]
        return tf.nn.softmax(tf.nn.relu(values))


class OnTheFlyEnsemble(Method):
    """Branches of one network that learn from their gated ensemble z_e = sum g_i z_i.

        L = a (sum_i CE(y, z_i) + CE(y, z_e)) + b r(t) sum_i T^2 KL(z_e || z_i)

    z_e is constant in the divergence. Everything is moved by one optimizer. The peers
    are the branches, each complete with the layers that all share, so that any one
    leaves alone; the ensemble's accuracy is that of z_e.

    Args:
      peers: two or more of one kind that share their first layers
        (`afd_tf.models.build_peers` with `own_stages`); published with three.
      temperature: T > 0.
      label_weight: a.
      logit_weight: b.
      ramp_part: part of the run over which r grows; 80 of 300 epochs as published.
      **kwargs: of `Method`.

    Raises:
      UserError: fewer than two peers, or peers that share nothing.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        temperature: float = 3.0,
        label_weight: float = 1.0,
        logit_weight: float = 1.0,
        ramp_part: float = 80 / 300,
        **kwargs,
    ):
        super().__init__(peers, **kwargs)
        layers = {id(layer) for layer in peers[-1].body.values()}
        shared = [name for name, each in peers[0].body.items() if id(each) in layers]
        if len(peers) < 2 or not shared:
            raise UserError(
                "--method=one takes two or more peers of one kind that share their "
                "first layers, e.g. --peers=resnet32,resnet32,resnet32 --own_stages=1."
            )
        self.last_shared = shared[-1]
        self.temperature = temperature
        self.label_weight = label_weight
        self.logit_weight = logit_weight
        self.ramp_part = ramp_part
        self.gate = Gate(len(peers), name="gate")
        self.gate(tf.zeros([1, *peers[0].tap_shapes[self.last_shared]]))

    def make_objectives(self) -> Sequence[Objective]:
        """Returns one objective, "ensemble/logit", on all branches and the gate."""
        found = [each for peer in self.peers for each in peer.trainable_variables]
        variables = list({id(each): each for each in found}.values())
        variables += self.gate.trainable_variables
        return [Objective("ensemble", "logit", variables, self.recipe)]

    def compute_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns L and, as monitors, its parts and the accuracies."""
        together = self._gated_logits(outputs, training=True)
        total = self.label_loss(labels, together)
        monitors = {
            "ensemble/loss_cross_entropy": total,
            "ensemble/accuracy": top1_correct(labels, together),
        }
        iterations = tf.convert_to_tensor(self.objectives[0].optimizer.iterations)
        epoch = tf.cast(iterations // self.steps_per_epoch, tf.float32)
        grown = self.logit_weight * ramp(epoch, self.ramp_part * self.epochs)
        total = self.label_weight * total
        for number, output in enumerate(outputs):
            entropy = self.label_loss(labels, output.logits)
            divergence = losses.softened_divergence(
                together, output.logits, self.temperature
            )
            total += self.label_weight * entropy + grown * divergence
            peer = f"peer_{number}"
            monitors[f"{peer}/accuracy"] = top1_correct(labels, output.logits)
            monitors[f"{peer}/loss_cross_entropy"] = entropy
            monitors[f"{peer}/loss_divergence"] = divergence
        return {"ensemble/logit": total}, monitors

    def ensemble(self, outputs: Outputs) -> tf.Tensor:
        """Returns softmax(z_e), [B, classes]."""
        return tf.nn.softmax(self._gated_logits(outputs, training=False))

    def _gated_logits(self, outputs: Outputs, training: bool) -> tf.Tensor:
        gates = self.gate(outputs[0].taps[self.last_shared], training=training)
        logits = tf.stack([output.logits for output in outputs], axis=1)
        return tf.reduce_sum(gates[:, :, tf.newaxis] * logits, axis=1)


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    settings = logit_settings_from_flags()
    # The published form is the only one.
    for name in ("temperature_squared", "teacher_reduction", "logit_ramp_epochs"):
        del settings[name]
    return {"ramp_part": _RAMP.value, **settings}
