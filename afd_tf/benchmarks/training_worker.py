"""The worker process that trains one method, for `training_cost` and `communication`.

The `benchmark` command starts it, as its subcommand `worker`, with the flags of a
training run, so that the peak memory is that of one method and the defaults that a
method gives to flags stay in its own process. It takes the step of `afd_tf.train` with
its metrics, on one batch again and again: the input pipeline has no part in the
figures. A warm-up, which some methods have, is left out.
"""

import sys
import time
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import flags

from afd_tf import data, models
from afd_tf.base.errors import UserError
from afd_tf.base.run_flags import operational_names, resolved_flags
from afd_tf.benchmarks.communication import count_exchange
from afd_tf.benchmarks.worker_process import resident_peak, serve
from afd_tf.data import DatasetInfo
from afd_tf.distill import methods
from afd_tf.distill.method import Method
from afd_tf.models import PeerOutput
from afd_tf.training.loop import distribute, training_function
from afd_tf.training.numerics import (
    allow_auto_clustering,
    precision_from_flags,
    seed_from_flags,
)
from afd_tf.training.strategy import batch_size_from_flags, strategy_from_flags
from afd_tf.training.workers import Workers

# Not a subcommand for users, hence not in the command's help.
SUBCOMMAND = "worker"

# The first traces, the second runs as all others do.
_WARM_UP_STEPS = 2
# So many that the learning rate does not drop during the measurement.
_EPOCHS = 1000


def command_from_flags(module: str, *additional: str) -> list[str]:
    """Returns the command that starts a worker with the flags given to this process.

    Args:
      module: the command that calls `serve_training` for `SUBCOMMAND`.
      *additional: further flags, e.g. "--method=dml", which prevail.
    """
    given = [f"--{name}={text}" for name, text in _given_flags().items()]
    return [sys.executable, "-m", module, SUBCOMMAND, *given, *additional]


def reported_flags() -> dict[str, str]:
    """Returns the given flags that a measurement depends on, as text by name."""
    # The devices decide the figures of a measurement, though not those of a run.
    unreported = operational_names() - {"strategy"}
    return {
        name: text for name, text in _given_flags().items() if name not in unreported
    }


def _given_flags() -> dict[str, str]:
    # Only these: a default that is written out would stand against a method's own.
    return {
        name: text
        for name, text in resolved_flags().items()
        if not flags.FLAGS[name].using_default_value
    }


def serve_training() -> None:
    """Trains the method that the flags describe, on request.

    {"steps": n} is answered by {"seconds": the time that they took, "peak_memory":
    bytes, or None where it is unknown}; see `worker_process.serve`.
    """

    def prepare():
        description, take_steps = prepare_from_flags()

        def answer(request):
            seconds = take_steps(request["steps"])
            return {"seconds": seconds, "peak_memory": peak_memory()}

        return description, answer

    serve(prepare)


def prepare_from_flags() -> tuple[dict, Callable[[int], float]]:
    """Builds the method that the flags describe, and traces and warms up its step.

    Returns:
      `method_sizes` and, on several workers, "exchange", see
      `communication.count_exchange`; and a function that takes a number of steps,
      which has to be the same on all workers, and returns their seconds. It raises a
      `UserError` if a loss or a gradient is not finite, as the steps then end early.

    Raises:
      UserError: flags that do not fit.
    """
    for device in tf.config.list_physical_devices("GPU"):
        # Two workers share it, and each would take all of its memory.
        tf.config.experimental.set_memory_growth(device, True)
    strategy = strategy_from_flags()
    precision_from_flags()
    batch_size = batch_size_from_flags(strategy)
    seed = seed_from_flags()
    dataset = data.from_flags()
    with strategy.scope():
        method = build_from_flags(dataset.info, dataset.steps_per_epoch(batch_size))

    def one_batch(**part):
        batches = dataset.train_batches(
            batch_size=batch_size, seed=seed, epochs=1, **part
        )
        return batches.take(len(part.get("own", [0]))).cache().repeat()

    iterator = iter(distribute(strategy, one_batch))
    train, names = training_function(method, strategy, iterator)

    def take_steps(steps):
        began = time.perf_counter()
        taken, sums, _ = train(
            iterator, tf.constant(steps), tf.constant(0.0, tf.float64)
        )
        # Waits for the device.
        sums.numpy()
        seconds = time.perf_counter() - began
        if int(taken) < steps:
            raise UserError(
                "a loss or a gradient is not finite: give a smaller --learning_rate."
            )
        return seconds

    take_steps(_WARM_UP_STEPS)
    description = method_sizes(method, dataset.info.image_shape)
    if Workers(strategy).count > 1:
        description["exchange"] = count_exchange(method, names, train.graph)
    return description, take_steps


def build_from_flags(info: DatasetInfo, steps_per_epoch: int) -> Method:
    """Builds the method on --peers and compiles it; call it in the strategy's scope.

    An offline method gets the last of the peers as its frozen teacher, with random
    weights, as the cost does not depend on them: so all methods have the same networks.

    Args:
      info: the data set's image shape, classes, mean and variance.
      steps_per_epoch: training steps of an epoch.

    Raises:
      UserError: settings that do not fit, or too few peers.
    """
    entry = methods.set_method_defaults()
    peers = models.peers_from_flags(info)
    frozen_teachers = []
    if entry.offline:
        if len(peers) < 2:
            raise UserError(
                f"--peers={peers[0].name} names one network, but the last of the peers "
                "is the frozen teacher of an offline method here: name a student "
                "before it."
            )
        frozen_teachers = [peers.pop()]
        frozen_teachers[0].trainable = False
    method = methods.method_from_flags(peers, frozen_teachers)
    method.compile(epochs=_EPOCHS, steps_per_epoch=steps_per_epoch)
    allow_auto_clustering(method)
    return method


def method_sizes(method: Method, image_shape: tuple[int, int, int]) -> dict:
    """Returns the networks of a method and its sizes.

    Args:
      method: compiled.
      image_shape: (h, w, c).

    Returns:
      "students" and "frozen_teachers", their names; "trained_parameters", those of all
      objectives; "weights_in_memory", including frozen weights and moving statistics;
      "multiply_adds", of the forward pass of peers and teachers for one image, without
      other parts of the method such as discriminators. A layer that several peers
      share is counted once.
    """

    def every_network(images, training):
        outputs = method(images, training=training)
        outputs += [each(images, training=False) for each in method.frozen_teachers]
        return PeerOutput(None, [output.logits for output in outputs], {})

    trained = [
        variable for objective in method.objectives for variable in objective.variables
    ]
    return {
        "students": [peer.name for peer in method.peers],
        "frozen_teachers": [teacher.name for teacher in method.frozen_teachers],
        "trained_parameters": _count_parameters(trained),
        "weights_in_memory": _count_parameters(method.weights),
        "multiply_adds": models.multiply_adds(every_network, image_shape),
    }


def _count_parameters(variables: Sequence) -> int:
    each_once = {id(variable): variable for variable in variables}
    return sum(each.value.shape.num_elements() for each in each_once.values())


def peak_memory() -> int | None:
    """Returns the peak memory of this process in bytes, see `peak_memory_of`.

    It is None where the system does not tell it.
    """
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resident_peak()


def peak_memory_of() -> str:
    """Returns a description of the memory that `peak_memory` is the peak of."""
    if tf.config.list_physical_devices("GPU"):
        return "TensorFlow's allocations on the first GPU"
    return "resident set of the process, Python and TensorFlow included (VmHWM)"
