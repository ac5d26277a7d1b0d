"""Knowledge transfer with adversarial networks (KTAN: Liu et al. 2018)."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.distill import losses
from afd_tf.distill.feature_maps import pool_to_smallest
from afd_tf.distill.label_loss import CROSS_ENTROPY
from afd_tf.distill.labels import Labels
from afd_tf.distill.logit_distillation import logit_settings_from_flags
from afd_tf.distill.metrics import Values, discriminator_monitors, top1_correct
from afd_tf.distill.objective import (
    Objective,
    Outputs,
    Pass,
    Warmup,
    no_outputs,
)
from afd_tf.distill.offline_distillation import (
    OfflineDistillation,
    Teacher,
    single_teacher,
)
from afd_tf.distill.recipes import Recipe
from afd_tf.models import Peer
from afd_tf.models.discriminator import Discriminator, TransferLayer

_MAP_WEIGHT = flags.DEFINE_float(
    "ktan_map_weight",
    1.0,
    "Weight of the squared distance between the feature maps of student and teacher.",
    lower_bound=0,
)
_ADVERSARIAL_WEIGHT = flags.DEFINE_float(
    "ktan_adversarial_weight",
    1.0,
    "Weight of the loss with which a student of --method=ktan fools its discriminator.",
    lower_bound=0,
)
_LEARNING_RATE = flags.DEFINE_float(
    "ktan_discriminator_learning_rate",
    2e-4,
    "Initial learning rate of the Adam optimizer of ktan's discriminators.",
    lower_bound=0,
)
_EPOCHS = flags.DEFINE_integer(
    "ktan_adaptation_epochs",
    5,
    "Number of epochs, before those of --epochs, that train the teacher-to-student "
    "layer of --method=ktan.",
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
      adaptation_epochs: length of the warm-up that trains A.
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
        teacher = single_teacher(frozen_teachers)
        super().__init__(peers, frozen_teachers, **kwargs)
        self.map_weight = map_weight
        self.adversarial_weight = adversarial_weight
        self.discriminator_learning_rate = discriminator_learning_rate
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
        self.warmup = Warmup(
            adaptation_epochs,
            self._adaptation_objectives(),
            [Pass(no_outputs, self.adaptation_losses)],
        )

    def adaptation_losses(
        self, labels: Labels, outputs: Outputs
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
            values[name] = CROSS_ENTROPY(labels, logits)
            monitors[f"{name}_accuracy"] = top1_correct(labels, logits)
        return values, monitors

    def _adaptation_objectives(self) -> Sequence[Objective]:
        """Returns an objective on each teacher-to-student layer and its classifier."""
        return [
            Objective(
                f"peer_{number}",
                "adaptation",
                adaptation.trainable_variables + classifier.trainable_variables,
                dataclasses.replace(self.recipe, drops=()),
            )
            for number, (adaptation, classifier) in enumerate(
                zip(self.adaptations, self.classifiers, strict=True)
            )
        ]

    def make_objectives(self) -> Sequence[Objective]:
        """Returns L of each student, then the loss of each discriminator."""
        recipe = Recipe(
            "adam",
            learning_rate=self.discriminator_learning_rate,
            decay=0.0,
            drops=self.recipe.drops,
        )
        discriminators = [
            Objective(
                f"peer_{number}", "discriminator", each.trainable_variables, recipe
            )
            for number, each in enumerate(self.discriminators)
        ]
        return [*super().make_objectives(), *discriminators]

    def compute_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns L and the discriminators' losses, which share D's calls."""
        values, monitors = super().compute_losses(labels, outputs)
        for number, discriminator in enumerate(self.discriminators):
            # Trained in the warm-up: its weights and statistics stay.
            adapted = self.adaptations[number](outputs[-1].features, training=False)
            student, adapted = pool_to_smallest(outputs[number].features, adapted)
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


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return {
        "map_weight": _MAP_WEIGHT.value,
        "adversarial_weight": _ADVERSARIAL_WEIGHT.value,
        "discriminator_learning_rate": _LEARNING_RATE.value,
        "adaptation_epochs": _EPOCHS.value,
        **logit_settings_from_flags(),
    }
