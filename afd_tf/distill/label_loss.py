"""The loss of the labels: cross-entropy, smoothed or weighted by class if wanted."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import flags

from afd_tf.base.errors import UserError
from afd_tf.distill import losses
from afd_tf.distill.labels import Labels, MixedLabels

_LABEL_SMOOTHING = flags.DEFINE_float(
    "label_smoothing",
    0.0,
    "Probability that the target of the cross-entropy spreads evenly over all classes, "
    "e.g. 0.1.",
    lower_bound=0,
    upper_bound=1,
)
_CLASS_WEIGHTS = flags.DEFINE_enum(
    "class_weights",
    "none",
    ["none", "balanced"],
    "Weights of the classes in the cross-entropy: none, or balanced, which makes all "
    "classes count the same however many training images they have.",
)


@dataclasses.dataclass(frozen=True)
class LabelLoss:
    """w_y ((1 - s) CE(y, z) + s mean over classes c of -log softmax(z)_c).

    The target with smoothing s is that of Szegedy et al. (2016), section 7. The loss of
    mixed labels is the mix of the losses of both, each with the weight of its own
    class: (1 - m) L(y_own) + m L(y_partner) (Zhang et al. 2018; Yun et al. 2019).

    Attributes:
      smoothing: s, in 0..1.
      class_weights: w, one per class; None is 1 for all.
    """

    smoothing: float = 0.0
    class_weights: Sequence[float] | None = None

    def __call__(self, labels: Labels, logits: tf.Tensor) -> tf.Tensor:
        """Returns the loss, float32 [B].

        Args:
          labels: int32 [B], or `MixedLabels`.
          logits: float32 [B, classes].
        """
        if isinstance(labels, MixedLabels):
            own = self._of_one_label(labels.own, logits)
            partner = self._of_one_label(labels.partner, logits)
            return (1.0 - labels.weight) * own + labels.weight * partner
        return self._of_one_label(labels, logits)

    def _of_one_label(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        loss = losses.cross_entropy(labels, logits)
        if self.smoothing:
            spread = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
            loss = (1.0 - self.smoothing) * loss + self.smoothing * spread
        if self.class_weights is not None:
            loss *= tf.gather(tf.constant(self.class_weights, tf.float32), labels)
        return loss


CROSS_ENTROPY = LabelLoss()


def balanced_weights(class_counts: Sequence[int]) -> tuple[float, ...]:
    """Returns w_c = N / (K n_c): all classes weigh the same, an image 1 on average.

    Args:
      class_counts: n_c, the training images of each of K classes; N is their sum.

    Raises:
      UserError: a class has no training images.
    """
    if 0 in class_counts:
        raise UserError(
            f"class {list(class_counts).index(0)} has no training images, so that "
            "--class_weights=balanced has no weight for it: add some, or leave it out."
        )
    total = sum(class_counts)
    return tuple(total / (len(class_counts) * count) for count in class_counts)


def label_loss_from_flags(class_counts: Callable[[], Sequence[int]]) -> LabelLoss:
    """Returns the loss of the labels that the command line describes.

    Args:
      class_counts: returns the number of training images of each class; it is called
        for --class_weights=balanced alone, as it may have to read all labels.
    """
    weights = None
    if _CLASS_WEIGHTS.value == "balanced":
        weights = balanced_weights(class_counts())
    return LabelLoss(_LABEL_SMOOTHING.value, weights)
