"""Recipes: the optimizer, the schedule and the decay of an objective over a run."""

import dataclasses
from collections.abc import Sequence

import keras
from absl import flags

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.distill.optimizers import SGD, Adam
from afd_tf.distill.schedules import Cosine, LinearWarmup, StepDecay

KINDS = ("sgd", "adam")
SCHEDULES = ("step", "cosine")
LOGIT_OPTIMIZERS = ("sgd", "adamw")
DECAY_MODES = ("coupled", "decoupled")

_OPTIMIZER = flags.DEFINE_string(
    "optimizer",
    "sgd",
    "Optimizer of the peers' logit loss: sgd, or adamw, whose weight decay is "
    "decoupled and whose default --learning_rate is 0.001 and --weight_decay 0.05.",
)
_SCHEDULE = flags.DEFINE_string(
    "schedule",
    "step",
    "Schedule of --learning_rate: step multiplies it by 0.1 at --learning_rate_drops; "
    "cosine lets it fall to 0 over the run.",
)
_WARMUP_EPOCHS = flags.DEFINE_float(
    "warmup_epochs",
    0.0,
    "Number of epochs, or a part of one, over which --learning_rate grows linearly at "
    "the beginning.",
    lower_bound=0,
)
_GRADIENT_CLIP = flags.DEFINE_float(
    "gradient_clip",
    None,
    "Largest norm of the gradient of a peer's logit loss; a longer one is shortened to "
    "it. Default: no limit.",
    lower_bound=0,
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    0.1,
    "Initial learning rate of the optimizer of the peers' logit loss.",
    lower_bound=0,
)
_MOMENTUM = flags.DEFINE_float(
    "momentum",
    0.9,
    "Momentum of the peers' SGD optimizer.",
    lower_bound=0,
    upper_bound=1,
)
_NESTEROV = flags.DEFINE_bool(
    "nesterov", False, "Use Nesterov momentum in the peers' SGD optimizer."
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay",
    1e-4,
    "Weight decay of the optimizer of the peers' logit loss: with sgd an L2 factor.",
    lower_bound=0,
)
_DROPS = flags.DEFINE_list(
    "learning_rate_drops",
    ["0.5", "0.75"],
    "Fractions of the run after which --schedule=step multiplies --learning_rate by "
    "0.1.",
)
_DECAY_MODE = flags.DEFINE_string(
    "decay_mode",
    "coupled",
    "The weight decay of every optimizer: coupled adds decay * weight to the gradient, "
    "as PyTorch does; decoupled shrinks the weight by learning rate * decay, as Keras "
    "does.",
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one objective is optimized over a whole run.

    Attributes:
      kind: "sgd" or "adam".
      learning_rate: the first one.
      decay: L2 factor, on all variables of the objective.
      decay_mode: "coupled" (added to the gradient, PyTorch) or "decoupled" (the
        variable shrinks by learning rate * decay, Keras and AdamW).
      drops: parts of the run, 0..1, after which the learning rate is multiplied.
      drop_factor: by this.
      momentum: of SGD.
      nesterov: of SGD.
      schedule: "step" (`drops`) or "cosine".
      learning_rate_warmup: epochs over which the learning rate grows linearly.
      clip_norm: the largest norm of the gradients together; None is no limit.

    Raises:
      UserError: an unknown kind, decay mode or schedule.
    """

    kind: str
    learning_rate: float
    decay: float
    decay_mode: str = "coupled"
    drops: Sequence[float] = (0.5, 0.75)
    drop_factor: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    schedule: str = "step"
    learning_rate_warmup: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise unknown_name("optimizer", self.kind, KINDS)
        if self.decay_mode not in DECAY_MODES:
            raise unknown_name("decay mode", self.decay_mode, DECAY_MODES)
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)

    def build(
        self, epochs: int, steps_per_epoch: int, name: str
    ) -> keras.optimizers.Optimizer:
        """Returns the optimizer, not yet built on variables."""
        schedule = self._learning_rates(epochs, steps_per_epoch)
        shared = {
            "decay": self.decay,
            "decay_mode": self.decay_mode,
            "clip_norm": self.clip_norm,
            "name": name,
        }
        if self.kind == "sgd":
            return SGD(
                schedule, momentum=self.momentum, nesterov=self.nesterov, **shared
            )
        return Adam(schedule, epsilon=1e-8, **shared)

    def _learning_rates(
        self, epochs: int, steps_per_epoch: int
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        if self.schedule == "cosine":
            schedule = Cosine(self.learning_rate, epochs, steps_per_epoch)
        else:
            schedule = StepDecay(
                self.learning_rate,
                self.drops,
                self.drop_factor,
                epochs,
                steps_per_epoch,
            )
        warmup_steps = round(self.learning_rate_warmup * steps_per_epoch)
        return LinearWarmup(schedule, warmup_steps) if warmup_steps else schedule


SGD_RECIPE = Recipe("sgd", learning_rate=0.1, decay=1e-4)


# Of --optimizer → defaults of other flags that differ from theirs.
_OPTIMIZER_DEFAULTS = {
    "sgd": {},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.05},
}


def set_optimizer_defaults() -> None:
    """Gives flags the defaults of --optimizer.

    Raises:
      UserError: an unknown optimizer.
    """
    if _OPTIMIZER.value not in LOGIT_OPTIMIZERS:
        raise unknown_name("optimizer", _OPTIMIZER.value, LOGIT_OPTIMIZERS)
    for name, value in _OPTIMIZER_DEFAULTS[_OPTIMIZER.value].items():
        # Leaves alone what the command line has set.
        flags.FLAGS.set_default(name, value)


def logit_recipe_from_flags() -> Recipe:
    """Returns the recipe of the peers' logit loss from the command line.

    Raises:
      UserError: an unknown optimizer or schedule, or a learning-rate drop that is no
        number in 0..1.
    """
    set_optimizer_defaults()
    is_sgd = _OPTIMIZER.value == "sgd"
    return Recipe(
        "sgd" if is_sgd else "adam",
        learning_rate=_LEARNING_RATE.value,
        decay=_WEIGHT_DECAY.value,
        decay_mode=decay_mode_from_flags() if is_sgd else "decoupled",
        drops=drops_from(_DROPS),
        momentum=_MOMENTUM.value,
        nesterov=_NESTEROV.value,
        schedule=_SCHEDULE.value,
        learning_rate_warmup=_WARMUP_EPOCHS.value,
        clip_norm=_GRADIENT_CLIP.value,
    )


def decay_mode_from_flags() -> str:
    """Returns --decay_mode, which all optimizers share; `Recipe` checks it."""
    return _DECAY_MODE.value


def drops_from(flag: flags.FlagHolder) -> tuple[float, ...]:
    """Returns the numbers of a list flag.

    Raises:
      UserError: one is no number.
    """
    try:
        return tuple(float(part) for part in flag.value)
    except ValueError as error:
        raise UserError(
            f"--{flag.name}={','.join(flag.value)} should be numbers between 0 and 1 "
            "with commas between them, e.g. 0.5,0.75."
        ) from error
