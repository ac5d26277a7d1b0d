"""The training of networks that begin with pretrained weights.

Their body moves more slowly than the new classifier on it, may wait until the
classifier has learned something, and may keep the batch statistics that it came with.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from afd_tf.base.errors import UserError
from afd_tf.distill.label_loss import LabelLoss
from afd_tf.distill.metrics import Values, top1_correct
from afd_tf.distill.objective import Objective, Outputs, Pass, Warmup
from afd_tf.distill.recipes import Recipe
from afd_tf.models import Peer
from afd_tf.models.batch_normalization import keep_statistics

STATISTICS = ("moving", "kept")

_BACKBONE_RATE = flags.DEFINE_float(
    "backbone_learning_rate",
    1.0,
    "Factor of --learning_rate for the layers below the classifier of a pretrained "
    "peer, e.g. 0.1; the classifier learns at the full rate.",
    lower_bound=0,
)
_FREEZE_EPOCHS = flags.DEFINE_integer(
    "freeze_epochs",
    0,
    "Number of epochs, before those of --epochs, in which only the classifiers of "
    "pretrained peers learn, from the labels, on maps as in inference; and that of a "
    "--teacher which has none for these classes.",
    lower_bound=0,
)
_STATISTICS = flags.DEFINE_string(
    "batch_statistics",
    "moving",
    "Batch normalization of pretrained peers in training: kept normalizes with the "
    "statistics that came with the weights and leaves them alone; moving uses and "
    "follows those of the batches, as in a peer from noise.",
)


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """The ways in which a pretrained peer trains unlike one from noise.

    Attributes:
      backbone_rate: factor of the learning rate of the logit loss for all layers below
        the classifier.
      freeze_epochs: before the run proper, in which the classifier alone learns.
      statistics: one of `STATISTICS`.

    Raises:
      UserError: an unknown kind of statistics.
    """

    backbone_rate: float = 1.0
    freeze_epochs: int = 0
    statistics: str = "moving"

    def __post_init__(self):
        if self.statistics not in STATISTICS:
            raise UserError(
                f"--batch_statistics={self.statistics} should be one of "
                f"{', '.join(STATISTICS)}."
            )

    def prepare(self, peers: Sequence[Peer]) -> None:
        """Makes pretrained peers keep their batch statistics, if that is wanted."""
        for peer in peers:
            if peer.pretrained:
                keep_statistics(peer, self.statistics == "kept")

    def rate_factors(
        self, objective: Objective, peers: Sequence[Peer]
    ) -> list[float] | None:
        """Returns a factor of the learning rate for each variable of an objective.

        Args:
          objective: of any loss; only "logit" moves pretrained layers more slowly.
          peers: all.

        Returns:
          None where all factors are 1.
        """
        if objective.loss != "logit" or self.backbone_rate == 1.0:
            return None
        slow = {
            id(variable)
            for peer in peers
            if peer.pretrained
            for variable in peer.feature_variables
        }
        return [
            self.backbone_rate if id(variable) in slow else 1.0
            for variable in objective.variables
        ]

    def warmup(
        self,
        peers: Sequence[Peer],
        frozen_teachers: Sequence,
        recipe: Recipe,
        label_loss: LabelLoss,
    ) -> Warmup | None:
        """Returns the epochs in which classifiers alone learn, or None without them.

        Args:
          peers: all; those from noise wait.
          frozen_teachers: all; those with a random head learn.
          recipe: of the optimizer.
          label_loss: of the labels.
        """
        learners = {
            f"peer_{k}": peer for k, peer in enumerate(peers) if peer.pretrained
        }
        teachers = {
            k: teacher
            for k, teacher in enumerate(frozen_teachers)
            if has_random_head(teacher)
        }
        if not self.freeze_epochs or not (learners or teachers):
            return None

        def forward(images) -> Outputs:
            return [peer(images, training=False) for peer in learners.values()]

        def losses(labels, outputs: Outputs) -> tuple[Values, Values]:
            logits = {
                name: output.logits
                for name, output in zip(learners, outputs, strict=False)
            }
            # The teachers' outputs, which come last, are constants.
            maps = outputs[len(learners) :]
            logits |= {
                f"teacher_{k}": teacher.classify(maps[k].features)
                for k, teacher in teachers.items()
            }
            return (
                {
                    f"{name}/head": label_loss(labels, each)
                    for name, each in logits.items()
                },
                {
                    f"{name}/accuracy": top1_correct(labels, each)
                    for name, each in logits.items()
                },
            )

        networks = learners | {f"teacher_{k}": each for k, each in teachers.items()}
        objectives = [
            Objective(name, "head", network.head_variables, recipe)
            for name, network in networks.items()
        ]
        return Warmup(self.freeze_epochs, objectives, [Pass(forward, losses)])


def has_random_head(teacher) -> bool:
    """Returns whether nothing has trained the classifier of a frozen teacher."""
    return getattr(teacher, "random_head", False)


def require_heads(frozen_teachers: Sequence) -> None:
    """Refuses teachers whose classifier nothing has trained.

    Raises:
      UserError: there is one.
    """
    for teacher in frozen_teachers:
        if has_random_head(teacher):
            raise UserError(
                f"--teacher={teacher.spec} has no classifier for these classes, and "
                "this method learns from its logits: --freeze_epochs=N trains one on "
                "its maps before the run, --logit_weight=0 leaves the logits out; or "
                "train it with --method=independent and give that run directory."
            )


NO_FINE_TUNING = FineTuning()


def fine_tuning_from_flags() -> FineTuning:
    """Returns what the command line says about pretrained peers.

    Raises:
      UserError: an unknown kind of statistics.
    """
    return FineTuning(_BACKBONE_RATE.value, _FREEZE_EPOCHS.value, _STATISTICS.value)
