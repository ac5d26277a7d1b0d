"""What every method is: peers, objectives, and the step that minimizes them all."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.distill.optimizers import DECAY_MODES, Recipe, drops_from
from afd_tf.distill.replicas import (
    average_over_replicas,
    in_parts,
    replicas,
    sum_over_replicas,
)
from afd_tf.errors import UserError, unknown_name
from afd_tf.models import Peer, PeerOutput
from afd_tf.models.layers import training_mode

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

_SYNC_BATCH_NORM = flags.DEFINE_bool(
    "sync_batch_norm",
    True,
    "With several replicas: batch statistics over all of them, so that the numbers are "
    "those of one; off: each replica's own, of which the mean enters the moving ones.",
)
_ACCUMULATE = flags.DEFINE_integer(
    "accumulate",
    1,
    "Take the batch in this many parts, one after the other, for one update: less "
    "memory, the same gradient, but batch statistics of a part each.",
    lower_bound=1,
)
_REMAT = flags.DEFINE_bool(
    "remat",
    False,
    "Keep only what enters each block, and compute the rest again for the gradient: "
    "less memory, more time, the same numbers.",
)
_JIT_COMPILE = flags.DEFINE_bool(
    "jit_compile",
    False,
    "Compile forward and backward with XLA; where replicas exchange something in them, "
    "as batch statistics, what lies between the exchanges.",
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
      accumulate: in how many parts, one after the other, a batch is taken.
      sync_batch_norm: whether batch statistics are those of all replicas.
      remat: whether blocks are computed again for the gradient.
      jit_compile: whether XLA compiles forward and backward: of one replica whole, of
        several, where they exchange something meanwhile, what lies between.
      **kwargs: of a Keras model.

    Attributes:
      losses_exchange: whether the losses of several replicas need each other.

    Raises:
      UserError: an unknown update order or decay mode.
    """

    losses_exchange = False

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        frozen_teachers: Sequence[Callable[..., PeerOutput]] = (),
        recipe: Recipe = SGD_RECIPE,
        update_order: str = "simultaneous",
        accumulate: int = 1,
        sync_batch_norm: bool = True,
        remat: bool = False,
        jit_compile: bool = False,
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
        self.accumulate = accumulate
        self.sync_batch_norm = sync_batch_norm
        self.remat = remat
        self.compiled_by_xla = jit_compile
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

    @property
    def judged(self) -> list[str]:
        """The names of what has an accuracy: the peers and their ensemble."""
        return [*(f"peer_{number}" for number in range(len(self.peers))), "ensemble"]

    @property
    def least_pictures(self) -> int:
        """How many pictures each of several replicas needs; see `in_parts`."""
        return self.accumulate

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
        if self.compiled_by_xla and self._exchanges_before_gradients():
            # XLA has no exchanges. TensorFlow finds what it can compile between them.
            tf.config.optimizer.set_jit("autoclustering")
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
                # Gradients of 16-bit numbers vanish unless their loss is scaled.
                optimizer.scales_loss = self.compute_dtype == "float16"
                optimizer.build(variables)
                self.objectives.append(Objective(name, variables, optimizer))
        self.accuracies = {
            # float64: a count of pictures stays exact.
            f"{name}/accuracy": keras.metrics.Mean(f"{name}/accuracy", dtype="float64")
            for name in self.judged
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
        if replicas() > 1:
            global_batch = sum_over_replicas(global_batch)
        metrics = {}
        for number, (forward, parts) in enumerate(self._stages()):
            work = functools.partial(
                self._gradients,
                forward=forward,
                parts=parts,
                # The first forward has counted this batch.
                frozen=number > 0,
            )
            if self.compiled_by_xla and not self._exchanges_before_gradients():
                work = tf.function(work, autograph=False, jit_compile=True)
            gradients, sums = in_parts(
                functools.partial(work, global_batch=global_batch),
                self.accumulate,
                images,
                labels,
            )
            metrics |= self._apply(gradients)
            metrics |= {name: value / global_batch for name, value in sums.items()}
        if not self.sync_batch_norm and replicas() > 1:
            self._average_moving_statistics()
        return metrics

    def _exchanges_before_gradients(self) -> bool:
        """Returns whether replicas tell each other something in forward and losses."""
        return replicas() > 1 and (self.sync_batch_norm or self.losses_exchange)

    def _average_moving_statistics(self) -> None:
        """Gives every replica the mean of what their batches made of them."""
        frozen = {
            id(v)
            for each in self.frozen_teachers
            for v in getattr(each, "variables", ())
        }
        average_over_replicas(
            [
                variable
                for variable in self.non_trainable_variables
                if variable.name.startswith("moving_") and id(variable) not in frozen
            ]
        )

    def _stages(self):
        """Returns each forward with the losses that it serves."""
        if self.preparing:
            return [(self.preparation_outputs, [self.preparation_losses])]
        forward = functools.partial(self, training=True)
        if self.update_order == "sequential":
            return [(forward, [self.logit_losses]), (forward, [self.feature_losses])]
        return [(forward, [self.logit_losses, self.feature_losses])]

    def _gradients(self, images, labels, *, global_batch, forward, parts, frozen):
        """Returns the gradients of each objective, and sums over pictures, by name.

        The gradients are those of this replica's part of the losses, scaled where the
        objective's optimizer scales its loss.
        """
        # Outside the tapes, which would keep their activations.
        taught = self.teacher_outputs(images)
        with (
            tf.GradientTape(persistent=True) as tape,
            # Knows no peer: else a discriminator's gradient would come with the way
            # back through them, whose exchanges between replicas nobody leaves out.
            tf.GradientTape(
                persistent=True, watch_accessed_variables=False
            ) as tape_elsewhere,
            training_mode(
                frozen=frozen, local=not self.sync_batch_norm, remat=self.remat
            ),
        ):
            elsewhere = self._elsewhere()
            tape_elsewhere.watch(
                [v.value for each in elsewhere for v in each.variables]
            )
            outputs = [*forward(images), *taught]
            losses, monitors = {}, {}
            for part in parts:
                more_losses, more_monitors = part(labels, outputs)
                losses.update(more_losses)
                monitors.update(more_monitors)
        gradients, sums = {}, {}
        for each in self.objectives:
            if each.name not in losses:
                continue
            values = losses[each.name]
            weight = each.optimizer.loss_scale / global_batch
            own_tape = tape_elsewhere if each in elsewhere else tape
            gradients[each.name] = own_tape.gradient(
                values,
                [variable.value for variable in each.variables],
                output_gradients=tf.ones_like(values) * weight,
            )
            peer, loss = each.name.split("/")
            sums[f"{peer}/loss_{loss}"] = tf.reduce_sum(values)
        sums |= {name: tf.reduce_sum(values) for name, values in monitors.items()}
        return gradients, sums

    def _elsewhere(self) -> list[Objective]:
        """Returns the objectives that move nothing of a peer."""
        of_peers = {id(each) for peer in self.peers for each in peer.variables}
        return [
            objective
            for objective in self.objectives
            if of_peers.isdisjoint(map(id, objective.variables))
        ]

    def _apply(self, gradients) -> dict[str, tf.Tensor]:
        """Applies each objective's gradients with its own optimizer."""
        if replicas() > 1:
            gradients = sum_over_replicas(gradients)
        metrics = {}
        for each in self.objectives:
            if each.name in gradients:
                peer, loss = each.name.split("/")
                norm = each.optimizer.apply_scaled(gradients[each.name], each.variables)
                metrics[f"{peer}/gradient_norm_{loss}"] = norm / replicas()
                if each.optimizer.scales_loss:
                    scale = each.optimizer.loss_scale / replicas()
                    metrics[f"{peer}/loss_scale_{loss}"] = scale
        return metrics

    def test_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Counts each picture once, for every peer and for `ensemble`.

        Args:
          batch: "image" and "label" as in training, and "weight", float32 [B]: 0 for
            the pictures that only fill the last batch.
        """
        *right, counted = tf.unstack(self.count_hits(batch))
        for accuracy, count in zip(self.accuracies.values(), right, strict=True):
            accuracy.update_state(tf.math.divide_no_nan(count, counted), counted)
        return {name: metric.result() for name, metric in self.accuracies.items()}

    def count_hits(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns how many pictures each of `judged` gets right, and how many are real.

        Args:
          batch: see `test_step`.

        Returns:
          float64 [len(judged) + 1], of this replica's part.
        """
        outputs = self(batch["image"])
        scores = (*(output.logits for output in outputs), self.ensemble(outputs))
        right = [hits(batch["label"], each) for each in scores]
        counted = tf.stack([*right, tf.ones_like(batch["weight"])])
        return tf.reduce_sum(tf.cast(counted * batch["weight"], tf.float64), axis=-1)


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
    return {
        "recipe": recipe,
        "update_order": _UPDATE_ORDER.value,
        "accumulate": _ACCUMULATE.value,
        "sync_batch_norm": _SYNC_BATCH_NORM.value,
        "remat": _REMAT.value,
        "jit_compile": _JIT_COMPILE.value,
    }
