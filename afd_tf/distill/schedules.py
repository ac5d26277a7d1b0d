"""Learning-rate schedules."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from afd_tf.base.errors import UserError


class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate, multiplied by `factor` after each of `drops`.

    Args:
      learning_rate: of the first step.
      drops: parts of the run, 0..1; each is rounded to the nearest whole epoch.
      factor: of each drop.
      epochs: length of the run.
      steps_per_epoch: training steps of an epoch.

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
