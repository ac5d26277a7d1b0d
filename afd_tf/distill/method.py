"""What every method is: peers, objectives, and the step that minimizes them all."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.distill.optimizers import DECAY_MODES, Recipe, drops_from
from afd_tf.errors import unknown_name
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
    """Peers that train together.

    A subclass says what is minimized: `logit_losses`, and, if it looks at feature
    maps, `feature_losses` with their `feature_objectives`. This class runs one
    forward, takes every gradient from it, and applies each with its own optimizer.
    It is the one place that divides by the global batch.

    `compile` with the length of the run, then use `afd_tf.train`'s loop or `fit`.
    `fit` takes the batches of `afd_tf.data` on one replica and logs each epoch's last
    step.

    Args:
      peers: built networks, two or more where they learn from each other.
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
        self.recipe = recipe
        self.update_order = update_order
        self.objectives: list[Objective] = []

    # What a subclass says.

    def logit_losses(
        self, labels: tf.Tensor, outputs: Sequence[PeerOutput]
    ) -> tuple[Values, Values]:
        """Returns losses "peer_<k>/logit" and monitors.

        Args:
          labels: int32 [B].
          outputs: one for each peer.
        """
        raise NotImplementedError

    def feature_losses(
        self, labels: tf.Tensor, outputs: Sequence[PeerOutput]
    ) -> tuple[Values, Values]:
        """Returns the losses of `feature_objectives` by name, and monitors."""
        return {}, {}

    def feature_objectives(
        self,
    ) -> Sequence[tuple[str, Sequence[keras.Variable], Recipe]]:
        """Returns name, variables and recipe of each objective on feature maps."""
        return ()

    # What every method does.

    def compile(self, *, epochs: int, steps_per_epoch: int, **kwargs) -> None:
        """Builds every optimizer on its own variables.

        Args:
          epochs: length of the run, which the learning-rate schedules need.
          steps_per_epoch: likewise.
          **kwargs: of `keras.Model.compile`, for `fit`.
        """
        logit = [
            (f"peer_{number}/logit", peer.trainable_variables, self.recipe)
            for number, peer in enumerate(self.peers)
        ]
        self.objectives = []
        for name, variables, recipe in (*logit, *self.feature_objectives()):
            optimizer = recipe.build(epochs, steps_per_epoch, name.replace("/", "_"))
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
        return [peer(images, training=training) for peer in self.peers]

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes one step with every objective.

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
            global_batch = _sum_over_replicas(global_batch)
        metrics = {}
        for number, stage in enumerate(self._stages()):
            with tf.GradientTape(persistent=True) as tape:
                # The first forward has counted this batch.
                with frozen_moving_statistics(number > 0):
                    outputs = self(images, training=True)
                losses, monitors = {}, {}
                for part in stage:
                    more_losses, more_monitors = part(labels, outputs)
                    losses.update(more_losses)
                    monitors.update(more_monitors)
            metrics.update(self._minimize(tape, losses, global_batch))
            for name, values in monitors.items():
                metrics[name] = tf.reduce_sum(values) / global_batch
        return metrics

    def _stages(self):
        if self.update_order == "sequential":
            return [[self.logit_losses], [self.feature_losses]]
        return [[self.logit_losses, self.feature_losses]]

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
            gradients = _sum_over_replicas(gradients)
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
        """Counts each picture once; "ensemble" is the mean of the peers' softmax.

        Args:
          batch: "image" and "label" as in training, and "weight", float32 [B]: 0 for
            the pictures that only fill the last batch.
        """
        probabilities = [
            tf.nn.softmax(output.logits) for output in self(batch["image"])
        ]
        ensemble = tf.add_n(probabilities) / len(probabilities)
        for accuracy, scores in zip(
            self.accuracies.values(), (*probabilities, ensemble), strict=True
        ):
            accuracy.update_state(hits(batch["label"], scores), batch["weight"])
        return {name: metric.result() for name, metric in self.accuracies.items()}


def hits(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 where the largest of `scores` [B, classes] is the label, [B]."""
    return tf.cast(
        tf.argmax(scores, axis=-1, output_type=labels.dtype) == labels, tf.float32
    )


def _sum_over_replicas(values):
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
