"""Two steps of AFD and of KD under one strategy; no test, but its program:

python -m tests.distill.same_step out.npz --strategy=mirrored --replicas=2
"""

import collections
import sys

from afd_tf.base.command_line import quick_imports

with quick_imports():
    import tensorflow as tf

import keras
import numpy as np
from absl import flags
from absl.testing import flagsaver

from afd_tf.data.sharding import Share
from afd_tf.distill import methods
from afd_tf.distill.method import Method
from afd_tf.training import loop
from afd_tf.training.numerics import allow_auto_clustering
from afd_tf.training.strategy import strategy_from_flags
from tests import tensorflow_settings, tiny

# An epoch is a batch that divides by 2 and by 4, and a last one that does not.
BATCH, LAST = 16, 13
STEPS = ("even", "uneven")
# A full batch of an evaluation, and one that has to be filled up.
TEST = 301

# Channels and stride of the peers' one convolution: where there are three, their maps
# differ in channels and in size, and have to be brought to one.
PEERS = {2: ((4, 2), (4, 2)), 3: ((4, 2), (6, 2), (4, 1))}
TEACHER = (8, 2)
# With exchanges in the losses and without; replicas_test.py tries all methods.
METHODS = ("afd", "kd")
CASES = [f"{name}_{count}" for name in METHODS for count in PEERS]
# Of peers whose maps are alike, and of those whose maps have to be brought to one.
ALIKE, UNLIKE = ([f"{name}_{count}" for name in METHODS] for count in PEERS)
# One step of AFD whose batch is taken in parts, with the same images in each part.
IN_PARTS = "afd_in_parts"
PARTS = 2

# A step in float16 with a gradient that overflows on the last replica alone.
OVERFLOW = "afd_overflow"

_REPLICAS = flags.DEFINE_integer("replicas", 1, "Of this process.")
_CASES = flags.DEFINE_list("cases", [*CASES, IN_PARTS, OVERFLOW], "What is tried.")


def peer(filters: int, strides: int) -> tiny.SmallPeer:
    info = tiny.info()
    network = tiny.SmallPeer(
        [filters],
        [strides],
        num_classes=info.num_classes,
        mean=info.mean,
        variance=info.variance,
    )
    network.build_for(info.image_shape)
    return network


def build(name: str, count: int, accumulate: int = 1) -> Method:
    """Returns a method with the settings of the command line, compiled."""
    keras.utils.set_random_seed(0)
    peers = [peer(*shape) for shape in PEERS[count]]
    teachers = []
    if methods.METHODS[name].offline:
        teachers.append(peer(*TEACHER))
        teachers[0].trainable = False
    # At its own rate, 2e-5, Adam would hide in the tolerance what it does wrong.
    with flagsaver.as_parsed(
        method=name,
        afd_learning_rate="0.001",
        accumulate=str(accumulate),
        ema="0.9",
        gradient_clip="0.5",
        label_smoothing="0.1",
        schedule="cosine",
        warmup_epochs="0.5",
    ):
        method = methods.method_from_flags(peers, teachers)
    # Epochs enough for the learning rates to fall after these steps.
    tiny.compiled(method, epochs=4, steps_per_epoch=len(STEPS))
    allow_auto_clustering(method)
    return method


def state(method: Method, strategy) -> dict[str, np.ndarray]:
    """Returns the copies of each variable, [replicas of this process, ...].

    All moments of one kind that an optimizer holds are one array.
    """

    def copies(variable):
        own = variable.value if isinstance(variable, keras.Variable) else variable
        return np.stack(strategy.experimental_local_results(own))

    found = {}
    for kind in ("trainable", "non_trainable"):
        for number, variable in enumerate(getattr(method, f"{kind}_variables")):
            # Its path counts the networks that were built before.
            found[f"{kind}/{number} {variable.name}"] = copies(variable)
    for number, averages in enumerate(method.averages.variables):
        for place, average in enumerate(averages):
            found[f"average/{number}/{place}"] = copies(average)
    for objective in method.objectives:
        moments = collections.defaultdict(list)
        for variable in objective.optimizer.variables:
            values = copies(variable)
            kind = variable.path.rpartition("_")[-1]
            moments[kind].append(values.reshape(len(values), -1))
        for kind, values in moments.items():
            found[f"optimizer/{objective.name}/{kind}"] = np.concatenate(values, axis=1)
    return found


def take_steps(name: str, count: int, strategy) -> dict[str, np.ndarray]:
    """Returns metrics and state after each step, and of AFD the accuracies."""
    # The batches of AFD are mixed.
    recipe = {"mixup": 1.0, "cutmix": 1.0} if name == "afd" else {}
    dataset = tiny.dataset(train=BATCH + LAST, test=TEST, **recipe)
    with strategy.scope():
        method = build(name, count)
    batches = loop.distribute(
        strategy,
        lambda **part: dataset.train_batches(
            batch_size=BATCH, seed=0, epochs=1, **part
        ),
    )
    iterator = iter(batches)
    train, names = loop.training_function(method, strategy, iterator)
    found = {}
    for step in STEPS:
        taken, _, last = train(iterator, tf.constant(1), tf.constant(0.0, tf.float64))
        assert taken == 1
        values = state(method, strategy)
        values |= dict(zip([f"metric/{x}" for x in names], last.numpy(), strict=True))
        found |= {f"{step}/{key}": value for key, value in values.items()}
    if name == "afd":
        evaluate = loop.evaluation_function(method, strategy, dataset)
        found |= {f"test/{key}": value for key, value in evaluate("test").items()}
    return found


def microbatches(replicas: int = 1, own: range = range(1)) -> tf.data.Dataset:
    """Returns a batch for each of the replicas `own`: its share of every part."""
    batch = tiny.batch(size=BATCH)
    # Part p are the images p * BATCH // PARTS and following.
    order = np.arange(BATCH).reshape(PARTS, replicas, -1).swapaxes(0, 1)
    order = order.reshape(replicas, -1)[own.start : own.stop]
    return tf.data.Dataset.from_tensor_slices(
        {key: tf.gather(values, order) for key, values in batch.items()}
    )


def take_a_step_in_parts(strategy) -> dict[str, np.ndarray]:
    """Returns metrics and state after it."""
    with strategy.scope():
        method = build("afd", 2, accumulate=PARTS)
    iterator = iter(loop.distribute(strategy, microbatches))
    train, names = loop.training_function(method, strategy, iterator)
    _, _, last = train(iterator, tf.constant(1), tf.constant(0.0, tf.float64))
    found = dict(zip([f"metric/{x}" for x in names], last.numpy(), strict=True))
    return state(method, strategy) | found


def overflow(strategy) -> dict[str, np.ndarray]:
    """Returns the state after a step whose L_logit of peer 0 overflows somewhere."""
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    with strategy.scope():
        method = build("afd", 2)
    keras.mixed_precision.set_dtype_policy("float32")
    logit_losses = method.logit_losses
    # The label of the last image alone.
    marked = tiny.CLASSES - 1
    labels = np.arange(BATCH) % marked
    labels[-1] = marked
    batch = {"image": tiny.batch(size=BATCH)["image"], "label": np.int32(labels)}

    def overflowing(labels, outputs):
        @tf.custom_gradient
        def hurt(values):
            return values, lambda up: tf.where(labels == marked, np.inf, up)

        values, monitors = logit_losses(labels, outputs)
        return {**values, "peer_0/logit": hurt(values["peer_0/logit"])}, monitors

    method.logit_losses = overflowing

    def split(replicas: int = 1, own: range = range(1)) -> tf.data.Dataset:
        batches = tf.data.Dataset.from_tensors(batch)
        return Share(replicas, own).split_per_replica(batches)

    iterator = iter(loop.distribute(strategy, split))
    train, _ = loop.training_function(method, strategy, iterator)
    train(iterator, tf.constant(1), tf.constant(0.0, tf.float64))
    return state(method, strategy)


def main() -> None:
    _, output = flags.FLAGS(sys.argv)
    tensorflow_settings.divide_cpu(_REPLICAS.value)
    if not flags.FLAGS.jit_compile:
        tensorflow_settings.begin_sooner()
    strategy = strategy_from_flags()
    found = {"replicas": strategy.num_replicas_in_sync}
    for case in _CASES.value:
        if case == IN_PARTS:
            values = take_a_step_in_parts(strategy)
        elif case == OVERFLOW:
            values = overflow(strategy)
        else:
            name, count = case.split("_")
            values = take_steps(name, int(count), strategy)
        found |= {f"{case}/{key}": value for key, value in values.items()}
    np.savez(output, **found)


if __name__ == "__main__":
    main()
