"""What every method is: peers, objectives, and the step that minimizes them all."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.distill.optimizers import DECAY_MODES, Recipe, drops_from
from afd_tf.errors import UserError, unknown_name
from afd_tf.models import Peer, PeerOutput
from afd_tf.models.layers import frozen_moving_statistics

_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 0.1, "First learning rate of the peers' SGD.", lower_bound=0
)
_MOMENTUM = flags.DEFINE_float("momentum", 0.9, "Of the peers' SGD.")
_NESTEROV = flags.DEFINE_bool("nesterov", False, "Nesterov momentum for that SGD.")
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay", 1e-4, "L2 factor of that SGD.", lower_bound=0
)
_DROPS = flags.DEFINE_list(
    "learning_rate_drops",
    ["0.5", "0.75"],
    "Parts of the run after which that learning rate is multiplied by 0.1.",
)
_DECAY_MODE = flags.DEFINE_string(
    "decay_mode",
    "coupled",
    "coupled: decay * weight is added to the gradient (PyTorch); decoupled: the weight "
    "shrinks by learning rate * decay (Keras). For every optimizer.",
)
_UPDATE_ORDER = flags.DEFINE_string(
    "update_order",
    "simultaneous",
    "simultaneous: all gradients from one forward; sequential: a second forward "
    "between the logit update and the feature-map updates.",
)

# One for each peer, then one for each frozen teacher.
Outputs = Sequence[PeerOutput]
# Name, variables and recipe of an objective.
Plan = tuple[str, Sequence[keras.Variable], Recipe]

UPDATE_ORDERS = ("simultaneous", "sequential")
SGD_RECIPE = Recipe("sgd", learning_rate=0.1, decay=1e-4)

# Per-example values by name, [B] each; `losses` are minimized, `monitors` are shown.
Values = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Objective:
    """One loss, what it may move, and with what.

    Attributes:
      name: "peer_<k>/<loss>".
      variables: the only ones it moves.
      optimizer: its own, built on exactly these variables.
    """

    name: str
    variables: Sequence[keras.Variable]
    optimizer: keras.optimizers.Optimizer


class Method(keras.Model):
    """Peers that train together, perhaps with frozen teachers beside them.

    A subclass says what is minimized: `logit_losses`, and, if it has losses with
    variables or optimizers of their own, `feature_losses` with their
    `feature_objectives`. This class runs one forward, takes every gradient from it,
    and applies each with its own optimizer. It is the one place that divides by the
    global batch.

    Some methods begin with `preparation_epochs` in which something else is trained;
    while `preparing` is set, a step is one of `preparation_losses`.

    `compile` with the length of the run, then use `afd_tf.train`'s loop or `fit`.
    `fit` takes the batches of `afd_tf.data` on one replica, logs each epoch's last
    step and knows nothing of a preparation.

    Args:
      peers: built networks, two or more where they learn from each other.
      frozen_teachers: networks that only teach: called in inference mode, never moved.
      recipe: of the peers' logit loss.
      update_order: "simultaneous" or "sequential"; see `train_step`.
      **kwargs: of a Keras model.

    Raises:
      UserError: an unknown update order or decay mode.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        frozen_teachers: Sequence[Callable[..., PeerOutput]] = (),
        recipe: Recipe = SGD_RECIPE,
        update_order: str = "simultaneous",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if update_order not in UPDATE_ORDERS:
            raise unknown_name("update order", update_order, UPDATE_ORDERS)
        if recipe.decay_mode not in DECAY_MODES:
            raise unknown_name("decay mode", recipe.decay_mode, DECAY_MODES)
        self.peers = list(peers)
        self.frozen_teachers = list(frozen_teachers)
        self.recipe = recipe
        self.update_order = update_order
        self.objectives: list[Objective] = []
        self.preparation_epochs = 0
        self.preparing = False

    # What a subclass says.

    def logit_losses(
        self, labels: tf.Tensor, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns the losses of `logit_objectives` by name, and monitors.

        Args:
          labels: int32 [B].
          outputs: one for each peer, then one for each frozen teacher.
        """
        raise NotImplementedError

    def companions(self, number: int) -> Sequence[keras.Variable]:
        """Returns what trains along with peer `number` under its logit objective."""
        return []

    def logit_objectives(self) -> Sequence[Plan]:
        """Returns the objectives of `logit_losses`: here "peer_<k>/logit" for each."""
        return [
            (
                f"peer_{number}/logit",
                [*peer.trainable_variables, *self.companions(number)],
                self.recipe,
            )
            for number, peer in enumerate(self.peers)
        ]

    def feature_losses(
        self, labels: tf.Tensor, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns the losses of `feature_objectives` by name, and monitors."""
        return {}, {}

    def feature_objectives(self) -> Sequence[Plan]:
        """Returns name, variables and recipe of each further objective."""
        return ()

    def preparation_losses(
        self, labels: tf.Tensor, outputs: Outputs
    ) -> tuple[Values, Values]:
        """Returns the losses of `preparation_objectives` by name, and monitors."""
        raise NotImplementedError

    def preparation_objectives(self) -> Sequence[Plan]:
        """Returns the objectives of the first `preparation_epochs`."""
        return ()

    def preparation_outputs(self, images: tf.Tensor) -> Outputs:
        """Returns what `preparation_losses` needs of the peers; here nothing."""
        return []

    def teacher_outputs(self, images: tf.Tensor) -> Outputs:
        """Returns what the frozen teachers say to raw pixels [B, h, w, c]."""
        return [teacher(images, training=False) for teacher in self.frozen_teachers]

    def ensemble(self, outputs: Outputs) -> tf.Tensor:
        """Returns the peers' common probabilities [B, classes]: here their mean."""
        return tf.add_n([tf.nn.softmax(each.logits) for each in outputs]) / len(outputs)

    # What every method does.

    def compile(self, *, epochs: int, steps_per_epoch: int, **kwargs) -> None:
        """Builds every optimizer on its own variables.

        Args:
          epochs: length of the run after its preparation, which the learning-rate
            schedules need.
          steps_per_epoch: likewise.
          **kwargs: of `keras.Model.compile`, for `fit`.

        Raises:
          UserError: peers with common layers in a method that moves each for itself.
        """
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.objectives = []
        logit = self.logit_objectives()
        moved = [id(variable) for _, variables, _ in logit for variable in variables]
        if len(moved) > len(set(moved)):
            raise UserError(
                "peers that share layers (--own_stages) are one network: that is for "
                "--method=one."
            )
        for plans, length in (
            ((*logit, *self.feature_objectives()), epochs),
            (self.preparation_objectives(), self.preparation_epochs),
        ):
            for name, variables, recipe in plans:
                optimizer = recipe.build(
                    length, steps_per_epoch, name.replace("/", "_")
                )
                optimizer.build(variables)
                self.objectives.append(Objective(name, variables, optimizer))
        self.accuracies = {
            # float64: a count of pictures stays exact.
            f"{name}/accuracy": keras.metrics.Mean(f"{name}/accuracy", dtype="float64")
            for name in (*map("peer_{}".format, range(len(self.peers))), "ensemble")
        }
        # Keras asks for one optimizer; its own training step, the only place that
        # would use it, is replaced below.
        super().compile(
            optimizer=self.objectives[0].optimizer, auto_scale_loss=False, **kwargs
        )

    def call(self, images: tf.Tensor, training: bool = False) -> list[PeerOutput]:
        """Runs every peer on the same raw pixels, uint8 [B, h, w, c]."""
        # Layers that peers share run once.
        known: dict[int, tf.Tensor] = {}
        return [peer.finish(peer.taps(images, training, known)) for peer in self.peers]

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes one step with every objective of the present part of the run.

        Simultaneous: one forward; all gradients are taken at the same weights; the
        updates are applied in the order of the objectives. Sequential: the logit
        losses' updates come first, and a second forward, which leaves the moving
        statistics alone, serves the feature-map losses.

        Args:
          batch: "image", uint8 [B, h, w, c], and "label", int32 [B]: this replica's
            part of the global batch.

        Returns:
          Scalars by name: this replica's part of the losses and monitors, averaged
          over the global batch, and of the norms of the gradients. Their sum over the
          replicas is the value for the whole batch.
        """
        images, labels = batch["image"], batch["label"]
        global_batch = tf.cast(tf.shape(labels)[0], tf.float32)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            global_batch = sum_over_replicas(global_batch)
        # Outside the tape, which would keep their activations.
        taught = self.teacher_outputs(images)
        metrics = {}
        for number, (forward, parts) in enumerate(self._stages()):
            with tf.GradientTape(persistent=True) as tape:
                # The first forward has counted this batch.
                with frozen_moving_statistics(number > 0):
                    outputs = [*forward(images), *taught]
                losses, monitors = {}, {}
                for part in parts:
                    more_losses, more_monitors = part(labels, outputs)
                    losses.update(more_losses)
                    monitors.update(more_monitors)
            metrics.update(self._minimize(tape, losses, global_batch))
            for name, values in monitors.items():
                metrics[name] = tf.reduce_sum(values) / global_batch
        return metrics

    def _stages(self):
        """Returns each forward with the losses that it serves."""
        if self.preparing:
            return [(self.preparation_outputs, [self.preparation_losses])]
        forward = functools.partial(self, training=True)
        if self.update_order == "sequential":
            return [(forward, [self.logit_losses]), (forward, [self.feature_losses])]
        return [(forward, [self.logit_losses, self.feature_losses])]

    def _minimize(self, tape, losses, global_batch) -> dict[str, tf.Tensor]:
        """Takes all gradients, then applies each with its own optimizer."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        objectives = [each for each in self.objectives if each.name in losses]
        gradients = []
        for each in objectives:
            values = losses[each.name]
            gradients.append(
                tape.gradient(
                    values,
                    [variable.value for variable in each.variables],
                    output_gradients=tf.ones_like(values) / global_batch,
                )
            )
        if replicas > 1:
            gradients = sum_over_replicas(gradients)
        metrics = {}
        for each, gradient in zip(objectives, gradients, strict=True):
            peer, loss = each.name.split("/")
            mean = tf.reduce_sum(losses[each.name]) / global_batch
            norm = tf.linalg.global_norm(gradient) / replicas
            metrics[f"{peer}/loss_{loss}"] = mean
            metrics[f"{peer}/gradient_norm_{loss}"] = norm
            each.optimizer.apply(gradient, each.variables)
        return metrics

    def test_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Counts each picture once, for every peer and for `ensemble`.

        Args:
          batch: "image" and "label" as in training, and "weight", float32 [B]: 0 for
            the pictures that only fill the last batch.
        """
        outputs = self(batch["image"])
        scores = (*(output.logits for output in outputs), self.ensemble(outputs))
        for accuracy, each in zip(self.accuracies.values(), scores, strict=True):
            accuracy.update_state(hits(batch["label"], each), batch["weight"])
        return {name: metric.result() for name, metric in self.accuracies.items()}


def hits(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 where the largest of `scores` [B, classes] is the label, [B]."""
    return tf.cast(
        tf.argmax(scores, axis=-1, output_type=labels.dtype) == labels, tf.float32
    )


def discriminator_monitors(
    peer: str, on_real: tf.Tensor, on_fake: tf.Tensor, scales: Sequence = (1.0, 1.0)
) -> Values:
    """Returns how often a discriminator is right, as monitors.

    Args:
      peer: "peer_<k>".
      on_real: bool [n], whether it is right about each real map.
      on_fake: likewise for the fake ones.
      scales: what a real and a fake map count for.
    """
    on_real, on_fake = (
        scale * tf.cast(right, tf.float32)
        for scale, right in zip(scales, (on_real, on_fake), strict=True)
    )
    name = f"{peer}/discriminator_accuracy"
    return {
        f"{name}_real": on_real,
        f"{name}_fake": on_fake,
        name: tf.concat([on_real, on_fake], axis=0) / 2.0,
    }


def sum_over_replicas(values):
    """Returns tensors of this replica, added up over all of them."""
    return tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, values
    )


def settings_from_flags() -> dict:
    """Returns the keyword arguments of every method.

    Raises:
      UserError: a learning-rate drop is no number in 0..1.
    """
    recipe = Recipe(
        "sgd",
        learning_rate=_LEARNING_RATE.value,
        decay=_WEIGHT_DECAY.value,
        decay_mode=_DECAY_MODE.value,
        drops=drops_from(_DROPS),
        momentum=_MOMENTUM.value,
        nesterov=_NESTEROV.value,
    )
    return {"recipe": recipe, "update_order": _UPDATE_ORDER.value}
