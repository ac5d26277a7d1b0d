"""Moving averages of the peers' weights, which are evaluated in their place."""

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf
from absl import flags

from afd_tf.models import Peer

_EMA = flags.DEFINE_float(
    "ema",
    None,
    "Decay of a moving average of each peer's weights, e.g. 0.999, which is evaluated "
    "and exported in their place. Default: no average.",
    lower_bound=0,
    upper_bound=1,
)


class WeightAverages:
    """a = d a + (1 - d) w after every step, for all variables of the peers.

    d is the decay, or (1 + t) / (10 + t) in step t as long as that is smaller, so that
    the first weights are soon forgotten (as TensorFlow's ExponentialMovingAverage with
    `num_updates`). Moving statistics are averaged as the weights are.

    Attributes:
      variables: the averages of each peer, in the order of its variables; those of
        layers that peers share are the same.

    Args:
      peers: built networks; to be called in the scope of the run's strategy.
      decay: d, in 0..1.
    """

    def __init__(self, peers: Sequence[Peer], decay: float):
        self.decay = decay
        known: dict[int, tuple[tf.Variable, tf.Variable]] = {}
        self.variables: list[list[tf.Variable]] = []
        for peer in peers:
            for variable in peer.variables:
                if id(variable) not in known:
                    average = tf.Variable(variable.value, trainable=False)
                    known[id(variable)] = (variable.value, average)
            self.variables.append([known[id(each)][1] for each in peer.variables])
        self._pairs = list(known.values())

    def update(self, step: tf.Tensor) -> None:
        """Moves the averages.

        Args:
          step: t, int64 scalar, of the step that has just been taken, from 0.
        """
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        for weight, average in self._pairs:
            value = tf.convert_to_tensor(average)
            # The replica's own copy: all replicas have the same weights.
            tf.raw_ops.AssignVariableOp(
                resource=average.handle,
                value=value + (1.0 - decay) * (tf.convert_to_tensor(weight) - value),
            )

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Gives the peers their averages for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for weight, average in self._pairs:
            kept = weight.numpy()
            weight.assign(average.numpy())
            average.assign(kept)


def ema_from_flags() -> float | None:
    """Returns --ema."""
    return _EMA.value
