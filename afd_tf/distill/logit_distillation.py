"""The logit loss of most methods: the labels, and the softened outputs of teachers."""

from collections.abc import Sequence

import tensorflow as tf
from absl import flags

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.distill import losses
from afd_tf.distill.fine_tuning import has_random_head
from afd_tf.distill.labels import Labels
from afd_tf.distill.method import Method, method_settings_from_flags
from afd_tf.distill.metrics import Values, top1_correct
from afd_tf.distill.objective import Outputs
from afd_tf.models import Peer

_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    3.0,
    "Temperature T of the softened class probabilities; the default of --method=kd and "
    "of other offline methods is 4.",
)
_TEMPERATURE_SQUARED = flags.DEFINE_bool(
    "temperature_squared",
    True,
    "Multiply the divergence of softened class probabilities by the square of T.",
)
_LABEL_WEIGHT = flags.DEFINE_float(
    "label_weight", 1.0, "Weight of the cross-entropy with the labels.", lower_bound=0
)
_LOGIT_WEIGHT = flags.DEFINE_float(
    "logit_weight",
    1.0,
    "Weight of the divergence from the teachers' softened probabilities; 0 switches it "
    "off.",
    lower_bound=0,
)
_RAMP_EPOCHS = flags.DEFINE_float(
    "logit_ramp_epochs",
    0.0,
    "Number of epochs over which the weight of the divergence from the teachers' "
    "softened probabilities grows to --logit_weight, along the curve of --method=one; "
    "with 0 it has that weight from the beginning.",
    lower_bound=0,
)
_TEACHER_REDUCTION = flags.DEFINE_string(
    "teacher_reduction",
    "mean",
    "Combination of the divergences from several teachers: mean, or sum as in the "
    "published code of deep mutual learning.",
)

REDUCTIONS = ("mean", "sum")


def ramp(epoch: tf.Tensor, epochs: float) -> tf.Tensor:
    """exp(-5 (1 - min(t, e) / e)^2): grows from 0.007 to 1 over e epochs.

    Args:
      epoch: t, float32, counted from 0.
      epochs: e; 0 gives 1 always.
    """
    if not epochs:
        return tf.ones_like(epoch)
    return tf.exp(-5.0 * tf.square(1.0 - tf.minimum(epoch, epochs) / epochs))


class LogitDistillation(Method):
    """L_k = a CE(y, z_k) + b r(t) * mean over teachers j of T^2 KL(z_j || z_k).

    r is 1, or grows to 1 over the first epochs (`ramp`), as in ONE (Lan et al. 2018).

    A subclass chooses who teaches whom, and may add losses of its own to the same
    objective in `extra_losses`.

    Args:
      peers: the learners.
      teachers: for each learner the places of its teachers among the outputs: peers,
        then frozen teachers.
      temperature: T > 0.
      temperature_squared: whether the factor T^2 is there.
      label_weight: a.
      logit_weight: b; 0 leaves the divergence out.
      logit_ramp_epochs: over which r grows; 0 is r = 1.
      teacher_reduction: "mean", or "sum" over the teachers.
      **kwargs: of `Method`.

    Raises:
      UserError: T not above 0, or an unknown reduction.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        teachers: Sequence[Sequence[int]],
        temperature: float = 3.0,
        temperature_squared: bool = True,
        label_weight: float = 1.0,
        logit_weight: float = 1.0,
        logit_ramp_epochs: float = 0.0,
        teacher_reduction: str = "mean",
        **kwargs,
    ):
        if temperature <= 0:
            raise UserError(f"--temperature={temperature} should be above 0, e.g. 3.")
        if teacher_reduction not in REDUCTIONS:
            raise unknown_name("teacher reduction", teacher_reduction, REDUCTIONS)
        super().__init__(peers, **kwargs)
        self.teachers = list(teachers)
        self.temperature = temperature
        self.temperature_squared = temperature_squared
        self.label_weight = label_weight
        self.logit_weight = logit_weight
        self.logit_ramp_epochs = logit_ramp_epochs
        self.teacher_reduction = teacher_reduction

    @property
    def learns_from_logits(self) -> bool:
        """Whether the logits of frozen teachers enter a loss."""
        return self.logit_weight != 0

    def extra_losses(self, number: int, outputs: Outputs) -> Values:
        """Returns further losses of peer `number`, weighted, float32 [B] by name."""
        return {}

    def compute_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns the logit losses; a subclass with further objectives adds to them."""
        return self.logit_losses(labels, outputs)

    def logit_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns L_k and, as monitors, its parts and the accuracies."""
        values, monitors = {}, {}
        weight = self._divergence_weight()
        for number, output in enumerate(outputs[: len(self.peers)]):
            peer = f"peer_{number}"
            parts = {"cross_entropy": self.label_loss(labels, output.logits)}
            loss = self.label_weight * parts["cross_entropy"]
            if self.logit_weight:
                parts["divergence"] = self._divergence(number, outputs)
                loss += weight * parts["divergence"]
            for name, value in self.extra_losses(number, outputs).items():
                parts[name] = value
                loss += value
            values[f"{peer}/logit"] = loss
            monitors[f"{peer}/accuracy"] = top1_correct(labels, output.logits)
            monitors |= {f"{peer}/loss_{name}": part for name, part in parts.items()}
        for number, output in enumerate(outputs[len(self.peers) :]):
            if self._head_warmup or not has_random_head(self.frozen_teachers[number]):
                name = f"teacher_{number}/accuracy"
                monitors[name] = top1_correct(labels, output.logits)
        return values, monitors

    def _divergence_weight(self) -> float | tf.Tensor:
        """Returns b r(t)."""
        if not self.logit_ramp_epochs:
            return self.logit_weight
        iterations = tf.convert_to_tensor(self.objectives[0].optimizer.iterations)
        epoch = tf.cast(iterations // self.steps_per_epoch, tf.float32)
        return self.logit_weight * ramp(epoch, self.logit_ramp_epochs)

    def _divergence(self, number: int, outputs: Outputs) -> tf.Tensor:
        divergences = [
            losses.softened_divergence(
                outputs[teacher].logits,
                outputs[number].logits,
                self.temperature,
                self.temperature_squared,
            )
            for teacher in self.teachers[number]
        ]
        total = tf.add_n(divergences)
        return total if self.teacher_reduction == "sum" else total / len(divergences)


def logit_settings_from_flags() -> dict:
    """Returns the keyword arguments of `LogitDistillation` from the command line."""
    return {
        "temperature": _TEMPERATURE.value,
        "temperature_squared": _TEMPERATURE_SQUARED.value,
        "label_weight": _LABEL_WEIGHT.value,
        "logit_weight": _LOGIT_WEIGHT.value,
        "logit_ramp_epochs": _RAMP_EPOCHS.value,
        "teacher_reduction": _TEACHER_REDUCTION.value,
        **method_settings_from_flags(),
    }
