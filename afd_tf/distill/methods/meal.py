"""Multi-model ensemble via adversarial learning (MEAL: Shen, He and Xue, AAAI 2019)."""

import functools
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.base.errors import unknown_name
from afd_tf.distill import losses
from afd_tf.distill.labels import Labels
from afd_tf.distill.logit_distillation import (
    LogitDistillation,
    logit_settings_from_flags,
)
from afd_tf.distill.metrics import Values, discriminator_monitors
from afd_tf.distill.objective import Objective, Outputs
from afd_tf.distill.offline_distillation import Teacher, require_maps
from afd_tf.distill.recipes import Recipe
from afd_tf.models import Peer, PeerOutput
from afd_tf.models.layers import pooling_weights

_SIMILARITY = flags.DEFINE_string(
    "meal_similarity",
    "cross_entropy",
    "Similarity loss of --method=meal at each level: cross_entropy, l1 or l2.",
)
_SIMILARITY_WEIGHT = flags.DEFINE_float(
    "meal_similarity_weight",
    1.0,
    "Weight of the similarity loss of --method=meal at each level.",
    lower_bound=0,
)
_ADVERSARIAL_WEIGHT = flags.DEFINE_float(
    "meal_adversarial_weight",
    1.0,
    "Weight of the loss with which a student of --method=meal fools the discriminator "
    "of each level.",
    lower_bound=0,
)
_LEARNING_RATE = flags.DEFINE_float(
    "meal_discriminator_learning_rate",
    1e-3,
    "Initial learning rate of the SGD optimizer of meal's discriminators.",
    lower_bound=0,
)


def softened_cross_entropy(
    student: tf.Tensor, teacher: tf.Tensor, temperature: float
) -> tf.Tensor:
    """-sum softmax(t / T) log softmax(s / T), [B], teacher constant.

    Args:
      student: float32 [B, n], logits or a pooled map.
      teacher: float32 [B, n], of the same kind.
      temperature: T > 0.
    """
    targets = tf.nn.softmax(tf.stop_gradient(teacher) / temperature)
    return tf.nn.softmax_cross_entropy_with_logits(targets, student / temperature)


def two_class_loss(logits: tf.Tensor, teacher: bool) -> tf.Tensor:
    """Binary cross-entropy, mean over both outputs, with (1, 0) for a teacher's map.

    Args:
      logits: of a discriminator, float32 [B, 2].
      teacher: whether (1, 0) or (0, 1) is the target.

    Returns:
      float32 [B].
    """
    target = tf.constant([1.0, 0.0] if teacher else [0.0, 1.0])
    return tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(
            tf.broadcast_to(target, tf.shape(logits)), logits
        ),
        axis=-1,
    )


class LevelDiscriminator(keras.Model):
    """Tells teachers from a student at one level: dense n -> n/2 -> n/4 -> 2, ReLU.

    Args:
      width: n, of the pooled map.
    """

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.hidden = [
            keras.layers.Dense(max(1, width // part), activation="relu")
            for part in (2, 4)
        ]
        self.score = keras.layers.Dense(2, dtype="float32")

    def call(self, values: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits [B, 2] for [B, n]."""
        for layer in self.hidden:
            values = layer(values)
        return self.score(values)


class MultiModelEnsemble(LogitDistillation):
    """Each step a random teacher, whose maps and logits the student learns to resemble.

    The teacher follows from the seed of `compile` and the step.

        L = a CE(y, z) + b T^2 KL(z_t || z)
            + sum over levels of u sim(s, t) + v BCE(D(s), "teacher")

    Levels are the stages, paired from the last one on, and the logits. A stage's map
    is averaged over its positions and, where channels differ, over neighbouring
    channels to the least number that a network has there. On the command line a = 0
    and b = 0: the paper uses no labels.

    The published code puts D's and the student's variables into one optimizer; here
    each D has an SGD of its own with the published learning rate, and moves against
    the student. All weights are 1, as published.

    Args:
      peers: the students.
      frozen_teachers: one or more, with maps.
      similarity: "cross_entropy" (of softened values, with T), "l1" or "l2".
      similarity_weight: u.
      adversarial_weight: v.
      discriminator_learning_rate: with the drops of the students' SGD.
      **kwargs: of `LogitDistillation`.

    Raises:
      UserError: an unknown similarity, or a teacher without maps.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        frozen_teachers: Sequence[Teacher],
        *,
        similarity: str = "cross_entropy",
        similarity_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        discriminator_learning_rate: float = 1e-3,
        **kwargs,
    ):
        similarities = {
            "cross_entropy": functools.partial(
                softened_cross_entropy, temperature=kwargs.get("temperature", 3.0)
            ),
            "l1": losses.l1_distance,
            "l2": losses.l2_distance,
        }
        if similarity not in similarities:
            raise unknown_name("meal similarity", similarity, similarities)
        require_maps(frozen_teachers, stages=True)
        # Whichever teacher is chosen, its output is the one after the peers'.
        super().__init__(
            peers,
            teachers=[(len(peers),)] * len(peers),
            frozen_teachers=frozen_teachers,
            **kwargs,
        )
        self.similarity = similarities[similarity]
        self.similarity_weight = similarity_weight
        self.adversarial_weight = adversarial_weight
        self.discriminator_learning_rate = discriminator_learning_rate
        # Level → its width: "logits", "-1" for the last stage, "-2", ...
        networks = (*peers, *frozen_teachers)
        depth = min(len(network.stages) for network in networks)
        self.widths = {
            str(-place): min(
                network.tap_shapes[network.stages[-place]][-1] for network in networks
            )
            for place in range(1, depth + 1)
        }
        self.widths["logits"] = peers[0].num_classes
        self.discriminators = []
        for _ in peers:
            by_level = {name: LevelDiscriminator(n) for name, n in self.widths.items()}
            for name, discriminator in by_level.items():
                discriminator(tf.zeros([1, self.widths[name]]))
            self.discriminators.append(by_level)

    # Their logits are a level.
    learns_from_logits = True

    def teacher_outputs(self, images: tf.Tensor) -> Outputs:
        """Returns the one output of this step's teacher; its taps are the levels."""
        if self.warming_up:
            return super().teacher_outputs(images)
        step = tf.cast(self.objectives[0].optimizer.iterations, tf.int32)
        choice = tf.random.stateless_uniform(
            [], [self.seed, step], 0, len(self.frozen_teachers), tf.int32
        )

        def levels_of(teacher):
            return self._levels(teacher, teacher(images, training=False))

        levels = tf.switch_case(
            choice,
            [functools.partial(levels_of, each) for each in self.frozen_teachers],
        )
        return [PeerOutput(None, levels["logits"], levels)]

    def make_objectives(self) -> Sequence[Objective]:
        """Returns L of each student, then the loss of its discriminators together."""
        recipe = Recipe(
            "sgd",
            learning_rate=self.discriminator_learning_rate,
            decay=self.recipe.decay,
            decay_mode=self.recipe.decay_mode,
            drops=self.recipe.drops,
        )
        discriminators = [
            Objective(
                f"peer_{number}",
                "discriminator",
                [v for each in by_level.values() for v in each.trainable_variables],
                recipe,
            )
            for number, by_level in enumerate(self.discriminators)
        ]
        return [*super().make_objectives(), *discriminators]

    def compute_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns L and the discriminators' losses, which share D's calls."""
        values, monitors = super().compute_losses(labels, outputs)
        for number, by_level in enumerate(self.discriminators):
            own = self._levels(self.peers[number], outputs[number])
            similarity_losses, generator_losses, discriminator_losses = [], [], []
            on_real, on_fake = [], []
            for name, discriminator in by_level.items():
                taught = outputs[-1].taps[name]
                similarity_losses.append(self.similarity(own[name], taught))
                fake, real = discriminator(own[name]), discriminator(taught)
                generator_losses.append(two_class_loss(fake, teacher=True))
                discriminator_losses.append(
                    two_class_loss(fake, teacher=False)
                    + two_class_loss(real, teacher=True)
                )
                on_real.append(real[:, 0] > real[:, 1])
                on_fake.append(fake[:, 0] < fake[:, 1])
            peer = f"peer_{number}"
            monitors[f"{peer}/loss_similarity"] = tf.add_n(similarity_losses)
            monitors[f"{peer}/loss_fooling"] = tf.add_n(generator_losses)
            values[f"{peer}/logit"] += self.similarity_weight * tf.add_n(
                similarity_losses
            )
            values[f"{peer}/logit"] += self.adversarial_weight * tf.add_n(
                generator_losses
            )
            values[f"{peer}/discriminator"] = tf.add_n(discriminator_losses)
            monitors |= discriminator_monitors(
                peer,
                tf.concat(on_real, axis=0),
                tf.concat(on_fake, axis=0),
                weights=[1.0 / len(by_level)] * 2,
            )
        return values, monitors

    def _levels(self, network: Peer, output: PeerOutput) -> Mapping[str, tf.Tensor]:
        """Returns float32 [B, width] for each level."""
        levels = {}
        for name, width in self.widths.items():
            if name == "logits":
                levels[name] = output.logits
                continue
            maps = tf.cast(output.taps[network.stages[int(name)]], tf.float32)
            pooled = tf.reduce_mean(maps, axis=(1, 2))
            if pooled.shape[-1] > width:
                pooled = tf.matmul(pooled, pooling_weights(pooled.shape[-1], width))
            levels[name] = pooled
        return levels


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return {
        "similarity": _SIMILARITY.value,
        "similarity_weight": _SIMILARITY_WEIGHT.value,
        "adversarial_weight": _ADVERSARIAL_WEIGHT.value,
        "discriminator_learning_rate": _LEARNING_RATE.value,
        **logit_settings_from_flags(),
    }
