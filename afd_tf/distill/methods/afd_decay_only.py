"""A control for AFD: the Adam of the feature maps with nothing but its weight decay."""

import tensorflow as tf
from absl import flags

from afd_tf.distill.methods.afd import AdversarialFeatureDistillation, Scores

_DECAY_ONLY = flags.DEFINE_bool(
    "afd_decay_only",
    False,
    "Train a control for afd: the Adam optimizer of the feature maps works without the "
    "adversarial gradient, so that only its weight decay is left.",
)


class DecayOnlyControl(AdversarialFeatureDistillation):
    """AFD without the gradient of L_G; its optimizer still decays the weights.

    The weight decay of the feature maps' Adam is 0.1 and coupled, and moves weights by
    itself; this shows what of AFD's effect is the decay's. Everything else is as in
    AFD, the discriminators included.

    Args and errors: see `AdversarialFeatureDistillation`.
    """

    def feature_loss(self, fake: Scores) -> tf.Tensor:
        """Returns 0 for each map, which costs no pass back through the peer."""
        return tf.zeros_like(fake.values)


def chosen_from_flags() -> bool:
    """Returns whether the command line asks for this control of AFD."""
    return _DECAY_ONLY.value
