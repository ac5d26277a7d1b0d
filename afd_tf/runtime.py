"""What a run stands on: devices, seeds and learning-rate schedules."""

from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.errors import UserError, unknown_name

STRATEGIES = ("auto", "one", "mirrored")

_STRATEGY = flags.DEFINE_string(
    "strategy",
    "auto",
    "auto: all GPUs, or one device where there are not several; one: the first GPU, "
    "or the CPU; mirrored: MirroredStrategy over all GPUs (or logical CPUs).",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Pictures a step, over all replicas.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Of the initial weights, the order of the pictures and augmentation.",
    lower_bound=0,
)


def strategy_from_flags() -> tf.distribute.Strategy:
    """Returns the strategy that --strategy names.

    Raises:
      UserError: the name is unknown.
    """
    if _STRATEGY.value not in STRATEGIES:
        raise unknown_name("strategy", _STRATEGY.value, STRATEGIES)
    graphics = tf.config.list_logical_devices("GPU")
    several = len(graphics) > 1 and _STRATEGY.value == "auto"
    if several or _STRATEGY.value == "mirrored":
        devices = graphics or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def seed_from_flags() -> int:
    """Seeds Python, NumPy and TensorFlow with --seed, and returns it."""
    keras.utils.set_random_seed(_SEED.value)
    return _SEED.value


def batch_size_from_flags(strategy: tf.distribute.Strategy) -> int:
    """Returns --batch_size, the pictures of a step over all replicas.

    Raises:
      UserError: it leaves a replica without pictures.
    """
    replicas = strategy.num_replicas_in_sync
    if _BATCH_SIZE.value < replicas:
        raise UserError(
            f"--batch_size={_BATCH_SIZE.value} is smaller than the {replicas} replicas "
            f"that share it: give at least {replicas}."
        )
    return _BATCH_SIZE.value


class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate, multiplied by `factor` after each of `drops`.

    Args:
      learning_rate: of the first step.
      drops: parts of the run, 0..1; each is rounded to the nearest whole epoch.
      factor: of each drop.
      epochs: length of the run.
      steps_per_epoch: likewise.

    Raises:
      UserError: a drop is outside 0..1.
    """

    def __init__(
        self,
        learning_rate: float,
        drops: Sequence[float],
        factor: float,
        epochs: int,
        steps_per_epoch: int,
    ):
        if any(not 0 <= drop <= 1 for drop in drops):
            raise UserError(
                f"learning-rate drops {list(drops)} are given as parts of the run, "
                "each between 0 and 1, e.g. 0.5,0.75."
            )
        self.boundaries = [round(drop * epochs) * steps_per_epoch for drop in drops]
        self.values = [learning_rate * factor**count for count in range(len(drops) + 1)]

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate, float32, of the step that is number `step`."""
        passed = tf.constant(self.boundaries, tf.int64) <= tf.cast(step, tf.int64)
        count = tf.math.count_nonzero(passed)
        return tf.gather(tf.constant(self.values, tf.float32), count)

    def get_config(self) -> dict:
        """Returns the steps at which the rate changes, and the rates."""
        return {"boundaries": self.boundaries, "values": self.values}
