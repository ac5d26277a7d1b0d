"""`afd_tf.train`, with steps whose loss is no number; no test, but its program:

python -m tests.poisoned --poisoned_steps=3,8 --dataset=digits --peers=small,small ...

It is the batches of those steps, whenever they come, and of several workers the first
one's part of them alone.
"""

from absl import flags

from afd_tf.base.command_line import prepare_environment, quick_imports, run

with quick_imports():
    prepare_environment(training=True)

import tensorflow as tf

from afd_tf import data, train
from afd_tf.distill.method import Method
from afd_tf.training.strategy import worker_count_from_flags
from tests import tensorflow_settings, tiny

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
            replicas=worker_count_from_flags(),
            own=range(1),
        )
        batch = next(batches.as_numpy_iterator())
        poisons.append(batch["image"].sum(dtype="int64"))
    take_step = Method.take_step

    def poisoned_step(self, batch):
        metrics = take_step(self, batch)
        pixels = tf.reduce_sum(tf.cast(batch["image"], tf.int64))
        is_poisoned = tf.reduce_any(pixels == poisons)
        metrics["peer_0/loss_logit"] += tf.where(is_poisoned, float("nan"), 0.0)
        return metrics

    Method.take_step = poisoned_step


def train_poisoned(argv: list[str]) -> int | None:
    undisturbed = train.train

    def poisoned(strategy, workers):
        # The strategy has to come before anything else of TensorFlow.
        poison()
        return undisturbed(strategy, workers)

    train.train = poisoned
    tiny.register_small()
    # As the runs that it is compared with.
    tensorflow_settings.begin_sooner()
    return train.main(argv)


def main() -> None:
    run(train_poisoned)


if __name__ == "__main__":
    main()
