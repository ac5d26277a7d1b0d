"""The contract of every method: peers, objectives, and the losses of a step."""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.distill.fine_tuning import (
    NO_FINE_TUNING,
    FineTuning,
    fine_tuning_from_flags,
    require_heads,
)
from afd_tf.distill.fitting import FittedModel
from afd_tf.distill.label_loss import CROSS_ENTROPY, LabelLoss
from afd_tf.distill.labels import Labels
from afd_tf.distill.metrics import Values
from afd_tf.distill.objective import Objective, Outputs, Pass, Warmup
from afd_tf.distill.recipes import SGD_RECIPE, Recipe, logit_recipe_from_flags
from afd_tf.distill.step import (
    DEFAULT_EXECUTION,
    Execution,
    execution_from_flags,
    take_step,
)
from afd_tf.distill.weight_averages import WeightAverages, ema_from_flags
from afd_tf.models import Peer, PeerOutput


class Method(FittedModel):
    """Peers that train together, perhaps with frozen teachers beside them.

    A subclass declares its objectives in `make_objectives` and computes their losses in
    `compute_losses`; `afd_tf.distill.step` takes the gradients and applies them. Some
    methods begin with a `Warmup` in which something else is trained: its objectives and
    losses take the place of these while `warming_up` is set.

    `compile` with the length of the run, then use `afd_tf.train`'s loop or `fit`:

        method.compile(epochs=2, steps_per_epoch=dataset.steps_per_epoch(64))
        method.fit(dataset, batch_size=64)
        method.evaluate(dataset, return_dict=True)

    Args:
      peers: built networks, two or more where they learn from each other.
      frozen_teachers: networks that only teach: called in inference mode, never moved.
      recipe: of the optimizer of the peers' logit loss.
      execution: the way in which a step is computed.
      label_loss: of the labels, for every peer.
      fine_tuning: of the peers that are pretrained.
      ema: decay of the moving averages of the peers' weights; None for no averages.
      **kwargs: of a Keras model.

    Attributes:
      objectives: of the whole run, with their optimizers; empty until `compile`.
      averages: of the weights, if `ema` is given, from `compile` on.
      warmup: epochs before the run proper, or None.
      warming_up: whether a step is one of the warm-up.
      losses_exchange: whether the losses of several replicas need each other.
      learns_from_logits: whether the logits of frozen teachers enter a loss.
    """

    losses_exchange = False
    learns_from_logits = False

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        frozen_teachers: Sequence[Callable[..., PeerOutput]] = (),
        recipe: Recipe = SGD_RECIPE,
        execution: Execution = DEFAULT_EXECUTION,
        label_loss: LabelLoss = CROSS_ENTROPY,
        fine_tuning: FineTuning = NO_FINE_TUNING,
        ema: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.peers = list(peers)
        self.frozen_teachers = list(frozen_teachers)
        self.recipe = recipe
        self.execution = execution
        self.label_loss = label_loss
        self.fine_tuning = fine_tuning
        self.ema = ema
        self.averages: WeightAverages | None = None
        self.objectives: list[Objective] = []
        self.warmup: Warmup | None = None
        self._head_warmup: Warmup | None = None
        self.warming_up = False

    # What a subclass declares.

    def make_objectives(self) -> Sequence[Objective]:
        """Returns the objectives, in the order in which their updates are applied.

        Here "peer_<k>/logit" for each peer: it moves the whole peer.
        """
        return [
            Objective(
                f"peer_{number}",
                "logit",
                [*peer.trainable_variables, *self.extra_variables(number)],
                self.recipe,
            )
            for number, peer in enumerate(self.peers)
        ]

    def extra_variables(self, number: int) -> Sequence[keras.Variable]:
        """Returns what trains along with peer `number` under its logit objective."""
        return []

    def compute_losses(self, labels: Labels, outputs: Outputs) -> tuple[Values, Values]:
        """Returns the losses by the names of their objectives, and monitors by name.

        Args:
          labels: int32 [B], or `MixedLabels` of mixed images.
          outputs: one for each peer, then one for each frozen teacher.

        Returns:
          float32 [B] each; both are averaged over the global batch, the losses are
          minimized and the monitors are reported.
        """
        raise NotImplementedError

    def passes(self) -> Sequence[Pass]:
        """Returns the forward passes of a step, each with the losses it serves."""
        return [Pass(self.training_outputs, self.compute_losses)]

    def teacher_outputs(self, images: tf.Tensor) -> Outputs:
        """Returns the outputs of the frozen teachers for uint8 [B, h, w, c]."""
        return [teacher(images, training=False) for teacher in self.frozen_teachers]

    def ensemble(self, outputs: Outputs) -> tf.Tensor:
        """Returns the peers' common probabilities [B, classes]: here their mean."""
        return tf.add_n([tf.nn.softmax(each.logits) for each in outputs]) / len(outputs)

    # What every method does.

    @property
    def warmup_epochs(self) -> int:
        """The number of epochs before the run proper."""
        return self.warmup.epochs if self.warmup else 0

    @property
    def min_images_per_replica(self) -> int:
        """The fewest images of a batch that each of several replicas needs."""
        return self.execution.accumulate

    def compile(
        self, *, epochs: int, steps_per_epoch: int, seed: int = 0, **kwargs
    ) -> None:
        """Builds every optimizer on its own variables.

        Args:
          epochs: the length of the run after its warm-up, for the schedules of the
            learning rates.
          steps_per_epoch: training steps of an epoch, for the same.
          seed: of random choices in a step, if the method makes any.
          **kwargs: of `keras.Model.compile`, for `fit`.

        Raises:
          UserError: peers with common layers in a method that moves each for itself,
            two warm-ups, or teachers whose logits mean nothing.
        """
        self.epochs, self.steps_per_epoch, self.seed = epochs, steps_per_epoch, seed
        self._prepare_fine_tuning()
        objectives = self.make_objectives()
        moved = [
            id(variable)
            for each in objectives
            if each.loss == "logit"
            for variable in each.variables
        ]
        if len(moved) > len(set(moved)):
            raise UserError(
                "peers that share layers (--own_stages) are one network: that is for "
                "--method=one."
            )
        # Gradients of 16-bit numbers vanish unless their loss is scaled.
        scales_loss = self.compute_dtype == "float16"
        self.objectives = [
            each.compiled(
                epochs=length,
                steps_per_epoch=steps_per_epoch,
                scales_loss=scales_loss,
                rate_factors=self.fine_tuning.rate_factors(each, self.peers),
            )
            for each, length in (
                *((each, epochs) for each in objectives),
                *(
                    (each, self.warmup_epochs)
                    for each in (self.warmup.objectives if self.warmup else ())
                ),
            )
        ]
        if self.ema is not None:
            self.averages = WeightAverages(self.peers, self.ema)
        self.compile_for_fit(**kwargs)

    def _prepare_fine_tuning(self) -> None:
        self.fine_tuning.prepare(self.peers)
        if not self.fine_tuning.freeze_epochs:
            if self.learns_from_logits:
                require_heads(self.frozen_teachers)
            return
        if self.warmup is not self._head_warmup:
            raise UserError(
                "--freeze_epochs and the epochs in which this method prepares "
                "something both come before the run: give one of them."
            )
        self.warmup = self._head_warmup = self.fine_tuning.warmup(
            self.peers, self.frozen_teachers, self.recipe, self.label_loss
        )

    def call(self, images: tf.Tensor, training: bool = False) -> list[PeerOutput]:
        """Runs every peer on the same raw pixels, uint8 [B, h, w, c]."""
        # Layers that peers share run once.
        known: dict[int, tf.Tensor] = {}
        return [peer.finish(peer.taps(images, training, known)) for peer in self.peers]

    def training_outputs(self, images: tf.Tensor) -> list[PeerOutput]:
        """Runs every peer on raw pixels, uint8 [B, h, w, c], in training mode."""
        return self(images, training=True)

    def current_passes(self) -> Sequence[Pass]:
        """Returns the passes of the warm-up while it lasts, then the method's own."""
        return self.warmup.passes if self.warming_up else self.passes()

    def take_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes one training step; see `afd_tf.distill.step.take_step`."""
        step = tf.convert_to_tensor(self.objectives[0].optimizer.iterations)
        values = take_step(self, batch)
        if self.averages and not self.warming_up:
            self.averages.update(step)
        return values


def method_settings_from_flags() -> dict:
    """Returns the keyword arguments that every method has, from the command line.

    Raises:
      UserError: a learning-rate drop is no number in 0..1.
    """
    return {
        "recipe": logit_recipe_from_flags(),
        "execution": execution_from_flags(),
        "fine_tuning": fine_tuning_from_flags(),
        "ema": ema_from_flags(),
    }
