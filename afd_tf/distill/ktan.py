"""Knowledge transfer with adversarial networks (KTAN: Liu et al. 2018)."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.distill import losses
from afd_tf.distill.logit import logit_settings_from_flags
from afd_tf.distill.method import (
    Outputs,
    Plan,
    Values,
    discriminator_monitors,
    hits,
)
from afd_tf.distill.offline import (
    OfflineDistillation,
    Teacher,
    of_equal_size,
    only_teacher,
)
from afd_tf.distill.optimizers import Recipe
from afd_tf.models import Peer
from afd_tf.models.discriminator import Discriminator, TransferLayer

_MAP_WEIGHT = flags.DEFINE_float(
    "ktan_map_weight", 1.0, "Of the squared distance between maps.", lower_bound=0
)
_ADVERSARIAL_WEIGHT = flags.DEFINE_float(
    "ktan_adversarial_weight",
    1.0,
    "Of the loss with which a student fools its discriminator.",
    lower_bound=0,
)
_LEARNING_RATE = flags.DEFINE_float(
    "ktan_discriminator_learning_rate",
    2e-4,
    "First learning rate of the discriminators' Adam.",
    lower_bound=0,
)
_EPOCHS = flags.DEFINE_integer(
    "ktan_adaptation_epochs",
    5,
    "Epochs that train the teacher-to-student layer, before --epochs.",
    lower_bound=1,
)


class AdversarialKnowledgeTransfer(OfflineDistillation):
    """L = a CE(y, z) + b T^2 KL(z_t || z) + v mean (F_s - A(F_t))^2 + w (1 - D(F_s))^2.

    A, the teacher-to-student layer (1x1 convolution, batch normalization, ReLU), leads
    to the student's channels. It is trained first, with a classifier of its own behind
    it and the labels, and then stays. D tells A(F_t), real, from F_s, fake.

    Only the form of L is known here, and it is recalled: weights, layers, the training
    of A and the discriminator's optimizer are this project's choice; the discriminator
    is AFD's.

    Args:
      peers: the students.
      frozen_teachers: one, with maps.
      map_weight: v.
      adversarial_weight: w.
      discriminator_learning_rate: of its Adam, with the drops of the students' SGD.
      adaptation_epochs: length of the preparation.
      **kwargs: of `LogitDistillation`.

    Raises:
      UserError: several teachers, one without maps, or maps that are too small.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        frozen_teachers: Sequence[Teacher],
        *,
        map_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        discriminator_learning_rate: float = 2e-4,
        adaptation_epochs: int = 5,
        **kwargs,
    ):
        teacher = only_teacher(frozen_teachers)
        super().__init__(peers, frozen_teachers, **kwargs)
        self.map_weight = map_weight
        self.adversarial_weight = adversarial_weight
        self.discriminator_learning_rate = discriminator_learning_rate
        self.preparation_epochs = adaptation_epochs
        self.adaptations, self.classifiers, self.discriminators = [], [], []
        for peer in peers:
            height, width, channels = peer.feature_shape
            size = (
                min(height, teacher.feature_shape[0]),
                min(width, teacher.feature_shape[1]),
            )
            adaptation = TransferLayer(channels)
            adaptation(tf.zeros([1, *teacher.feature_shape]))
            classifier = keras.layers.Dense(peer.num_classes, dtype="float32")
            classifier(tf.zeros([1, channels]))
            discriminator = Discriminator((*size, channels))
            discriminator(tf.zeros([1, *size, channels]))
            self.adaptations.append(adaptation)
            self.classifiers.append(classifier)
            self.discriminators.append(discriminator)

    def preparation_losses(
        self, labels: tf.Tensor, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns the cross-entropy of the classifiers on the adapted maps."""
        values, monitors = {}, {}
        for number, (adaptation, classifier) in enumerate(
            zip(self.adaptations, self.classifiers, strict=True)
        ):
            adapted = adaptation(outputs[-1].features, training=True)
            pooled = tf.reduce_mean(tf.cast(adapted, tf.float32), axis=(1, 2))
            logits = classifier(pooled)
            name = f"peer_{number}/adaptation"
            values[name] = losses.cross_entropy(labels, logits)
            monitors[f"{name}_accuracy"] = hits(labels, logits)
        return values, monitors

    def preparation_objectives(self) -> Sequence[Plan]:
        """Returns an objective on each teacher-to-student layer and its classifier."""
        return [
            (
                f"peer_{number}/adaptation",
                adaptation.trainable_variables + classifier.trainable_variables,
                dataclasses.replace(self.recipe, drops=()),
            )
            for number, (adaptation, classifier) in enumerate(
                zip(self.adaptations, self.classifiers, strict=True)
            )
        ]

    def feature_objectives(self) -> Sequence[Plan]:
        """Returns the objective of each discriminator."""
        recipe = Recipe(
            "adam",
            learning_rate=self.discriminator_learning_rate,
            decay=0.0,
            drops=self.recipe.drops,
        )
        return [
            (f"peer_{number}/discriminator", each.trainable_variables, recipe)
            for number, each in enumerate(self.discriminators)
        ]

    def logit_losses(
        self, labels: tf.Tensor, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns L and the discriminators' losses, which share D's calls."""
        values, monitors = super().logit_losses(labels, outputs)
        for number, discriminator in enumerate(self.discriminators):
            # Prepared and done: it neither trains nor moves its statistics.
            adapted = self.adaptations[number](outputs[-1].features, training=False)
            student, adapted = of_equal_size(outputs[number].features, adapted)
            fake = discriminator(student, training=True)
            real = discriminator(adapted, training=True)
            distance = losses.l2_distance(student, adapted)
            fooling = losses.least_squares(fake, 1.0)
            peer = f"peer_{number}"
            values[f"{peer}/logit"] += (
                self.map_weight * distance + self.adversarial_weight * fooling
            )
            values[f"{peer}/discriminator"] = losses.least_squares(
                real, 1.0
            ) + losses.least_squares(fake, 0.0)
            monitors[f"{peer}/loss_map"] = distance
            monitors[f"{peer}/loss_fooling"] = fooling
            monitors |= discriminator_monitors(peer, real > 0.5, fake < 0.5)
        return values, monitors


def from_flags(
    peers: Sequence[Peer], teachers: Sequence[Teacher]
) -> AdversarialKnowledgeTransfer:
    """Builds the method from the command line."""
    return AdversarialKnowledgeTransfer(
        peers,
        teachers,
        map_weight=_MAP_WEIGHT.value,
        adversarial_weight=_ADVERSARIAL_WEIGHT.value,
        discriminator_learning_rate=_LEARNING_RATE.value,
        adaptation_epochs=_EPOCHS.value,
        **logit_settings_from_flags(),
    )
