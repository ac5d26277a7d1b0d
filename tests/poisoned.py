"""`afd_tf.train`, with steps whose loss is no number; no test, but its program:

python -m tests.poisoned --poisoned_steps=3,8 --dataset=digits ...

It is the batches of those steps, whenever they come, and of several workers the first
one's part of them alone.
"""

import tensorflow as tf
from absl import flags

from afd_tf import data, runtime, train
from afd_tf.command_line import run
from afd_tf.distill import Method

_POISONED_STEPS = flags.DEFINE_list("poisoned_steps", [], "Counted from 0.")


def poison() -> None:
    """Changes every method's step."""
    dataset = data.from_flags()
    poisons = []
    for step in _POISONED_STEPS.value:
        batches = dataset.train_batches(
            batch_size=flags.FLAGS.batch_size,
            seed=flags.FLAGS.seed,
            epochs=flags.FLAGS.epochs,
            first_step=int(step),
            replicas=runtime.workers_from_flags(),
            own=range(1),
        )
        batch = next(batches.as_numpy_iterator())
        poisons.append(batch["image"].sum(dtype="int64"))
    train_step = Method.train_step

    def poisoned_step(self, batch):
        metrics = train_step(self, batch)
        pixels = tf.reduce_sum(tf.cast(batch["image"], tf.int64))
        is_poisoned = tf.reduce_any(pixels == poisons)
        metrics["peer_0/loss_logit"] += tf.where(is_poisoned, float("nan"), 0.0)
        return metrics

    Method.train_step = poisoned_step


def main(argv: list[str]) -> int | None:
    undisturbed = train.train

    def poisoned(strategy, crew):
        # The strategy has to come before anything else of TensorFlow.
        poison()
        return undisturbed(strategy, crew)

    train.train = poisoned
    return train.main(argv)


if __name__ == "__main__":
    run(main)
