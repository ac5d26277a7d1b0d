"""Learning-rate schedules: steps or a cosine, after a linear warm-up if wanted.

Schedules are functions of the step alone, which the optimizer counts.
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from afd_tf.base.errors import UserError


class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate, multiplied by `factor` after each of `drops`.

    Args:
      learning_rate: of the first step.
      drops: parts of the run, 0..1; each is rounded to the nearest whole epoch, but
        only 0 to the beginning.
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
        self.boundaries = [
            max(round(drop * epochs), drop > 0) * steps_per_epoch for drop in drops
        ]
        self.values = [learning_rate * factor**count for count in range(len(drops) + 1)]

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate, float32, of the step that is number `step`."""
        passed = tf.constant(self.boundaries, tf.int64) <= tf.cast(step, tf.int64)
        count = tf.math.count_nonzero(passed)
        return tf.gather(tf.constant(self.values, tf.float32), count)

    def get_config(self) -> dict:
        """Returns the steps at which the rate changes, and the rates."""
        return {"boundaries": self.boundaries, "values": self.values}


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Half a cosine from the learning rate to 0 over the run (Loshchilov, Hutter 2017).

    Args:
      learning_rate: of the first step.
      epochs: length of the run.
      steps_per_epoch: training steps of an epoch.
    """

    def __init__(self, learning_rate: float, epochs: int, steps_per_epoch: int):
        self.learning_rate = learning_rate
        self.steps = epochs * steps_per_epoch

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate, float32, of the step that is number `step`."""
        done = tf.minimum(tf.cast(step, tf.float32) / self.steps, 1.0)
        return self.learning_rate * 0.5 * (1.0 + tf.cos(math.pi * done))

    def get_config(self) -> dict:
        """Returns the first learning rate and the number of steps."""
        return {"learning_rate": self.learning_rate, "steps": self.steps}


class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule, whose first rates grow linearly (Goyal et al. 2017).

    Step n, counted from 0, of N warm-up steps has (n + 1) / N of its rate.

    Args:
      schedule: the other one.
      steps: N, of the warm-up.
    """

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int
    ):
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate, float32, of the step that is number `step`."""
        grown = (tf.cast(step, tf.float32) + 1.0) / self.steps
        return self.schedule(step) * tf.minimum(grown, 1.0)

    def get_config(self) -> dict:
        """Returns the number of steps and the other schedule's configuration."""
        return {"steps": self.steps, "schedule": self.schedule.get_config()}
