"""What a training step costs beside another one: sizes, time, memory.

Each method, or the same one with other flags, is built and trained in a process of its
own, so that the peak of the memory is its own and the defaults of its flags are nobody
else's. `serve` is that process; `compare` lets it take turns with a baseline, as peers
that train alone. What is measured is the step of `afd_tf.train` with its metrics, after
the preparation of methods that have one, on one batch again and again: the input
pipeline has no part in it.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from afd_tf import communication, data, distill, models, runtime, turns
from afd_tf.data import DatasetInfo
from afd_tf.errors import UserError
from afd_tf.journal import say
from afd_tf.loop import distribute, training_function
from afd_tf.models import PeerOutput

# The first traces, the second runs as all others do.
_WARM_UP_STEPS = 2


# What a worker does.


def serve() -> None:
    """Trains the method that the flags describe, turn by turn; see `turns.serve`.

    A request {"steps": n} is answered by {"seconds": ..., "peak_memory": ...}.
    """

    def prepare():
        description, take_steps = prepare_from_flags()

        def answer(request):
            seconds = take_steps(request["steps"])
            return {"seconds": seconds, "peak_memory": peak_memory()}

        return description, answer

    turns.serve(prepare)


def prepare_from_flags() -> tuple[dict, Callable[[int], float]]:
    """Returns `describe`, and a function that takes steps and returns their seconds.

    On several workers, the description has "exchange" as well, see
    `communication.describe`, and all of them have to take the same steps. The function
    raises a `UserError` if a loss or a gradient is not finite, which ends a turn early.

    Raises:
      UserError: flags that do not fit.
    """
    for device in tf.config.list_physical_devices("GPU"):
        # Two workers share it, and each would take all that it has.
        tf.config.experimental.set_memory_growth(device, True)
    strategy = runtime.strategy_from_flags()
    runtime.precision_from_flags()
    batch_size = runtime.batch_size_from_flags(strategy)
    seed = runtime.seed_from_flags()
    dataset = data.from_flags()
    with strategy.scope():
        method = build_from_flags(dataset.info, dataset.steps_per_epoch(batch_size))

    def one_batch(**part):
        batches = dataset.train_batches(
            batch_size=batch_size, seed=seed, epochs=1, **part
        )
        return batches.take(len(part.get("own", [0]))).cache().repeat()

    iterator = iter(distribute(strategy, one_batch))
    names: list[str] = []
    train = training_function(method, strategy, iterator, names)

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
    description = describe(method, dataset.info.image_shape)
    if runtime.Crew(strategy).workers > 1:
        description["exchange"] = communication.describe(method, names, train.graph)
    return description, take_steps


def build_from_flags(info: DatasetInfo, steps_per_epoch: int) -> distill.Method:
    """Builds the method on --peers, compiled.

    An offline method gets the last of them as its frozen teacher, whose weights are
    random, as the cost is the same: so all methods have the same networks.

    Args:
      info: of the data set.
      steps_per_epoch: likewise.

    Raises:
      UserError: settings that do not fit, or too few peers.
    """
    row = distill.set_method_defaults()
    peers = models.peers_from_flags(info)
    frozen_teachers = []
    if row.offline:
        if len(peers) < 2:
            raise UserError(
                "the last of --peers is the frozen teacher here: name a student before "
                "it."
            )
        frozen_teachers = [peers.pop()]
        frozen_teachers[0].trainable = False
    method = distill.method_from_flags(peers, frozen_teachers)
    # No drop of the learning rate comes near.
    method.compile(epochs=1000, steps_per_epoch=steps_per_epoch)
    return method


def describe(method: distill.Method, image_shape: tuple[int, int, int]) -> dict:
    """Returns what a method consists of.

    Args:
      method: compiled.
      image_shape: (h, w, c).

    Returns:
      names of "students" and "frozen_teachers"; "trained_parameters", of all
      objectives, each once; "weights_in_memory", with what is frozen and with moving
      statistics; "multiply_adds" of the peers' and the teachers' forward for one
      picture, without what else a method has, such as discriminators. Layers that
      peers share count once everywhere.
    """

    def every_network(images, training):
        outputs = method(images, training=training)
        outputs += [each(images, training=False) for each in method.frozen_teachers]
        return PeerOutput(None, [output.logits for output in outputs], {})

    trained = [each for plan in method.objectives for each in plan.variables]
    return {
        "students": [peer.name for peer in method.peers],
        "frozen_teachers": [teacher.name for teacher in method.frozen_teachers],
        "trained_parameters": _numbers(trained),
        "weights_in_memory": _numbers(method.weights),
        "multiply_adds": models.multiply_adds(every_network, image_shape),
    }


def peak_memory() -> int | None:
    """Returns the most bytes that this process has held; see `peak_memory_of`."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return turns.resident_peak()


def peak_memory_of() -> str:
    """Returns what `peak_memory` is the peak of."""
    if tf.config.list_physical_devices("GPU"):
        return "TensorFlow's allocations on the first GPU"
    return "resident set of the process, Python and TensorFlow included (VmHWM)"


def _numbers(variables: Sequence) -> int:
    each_once = {id(variable): variable for variable in variables}
    return sum(each.value.shape.num_elements() for each in each_once.values())


# What the process does that starts the workers.


def compare(
    names: Sequence[str],
    baseline_name: str,
    command: Callable[[str], Sequence[str]],
    rounds: int,
    steps: int,
) -> dict[str, dict | None]:
    """Measures methods or settings, each in turns with the baseline.

    Args:
      names: of what is measured. The baseline among them is measured against itself,
        which shows how exact the figures are.
      baseline_name: likewise.
      command: returns what starts the worker of a name.
      rounds: turns of each side.
      steps: of a turn.

    Returns:
      by name None for what refuses the flags, else `describe` with "seconds"
      and "baseline_seconds" of all turns, "peak_memory", and "relative", the ratios
      to the baseline; of the step time, "median", "min" and "max" of the ratios
      within a round.

    Raises:
      UserError: the baseline refuses the flags, or a worker ends.
    """

    def worker_of(name):
        return turns.Worker(name, command(name))

    results: dict[str, dict | None] = {}
    say(f"{baseline_name}, which takes turns with all: tracing and warming up.")
    with worker_of(baseline_name) as baseline:
        expected = baseline.answer()
        if "refused" in expected:
            raise UserError(expected["refused"])
        for name in names:
            say(f"{name}: tracing and warming up.")
            with worker_of(name) as worker:
                description = worker.answer()
                if "refused" in description:
                    say(f"{name} is left out: {description['refused']}")
                    results[name] = None
                    continue
                answers = turns.in_turns([worker, baseline], rounds, {"steps": steps})
            results[name] = {
                **description,
                **_summarize(*answers, description, expected),
            }
            time_ratio = results[name]["relative"]["step_time"]
            say(
                "{}: step time {median:.2f} ({min:.2f} to {max:.2f}) of {}'s.".format(
                    name, baseline_name, **time_ratio
                )
            )
    return results


def _summarize(
    own: Sequence[Mapping],
    alone: Sequence[Mapping],
    description: Mapping,
    expected: Mapping,
) -> dict:
    seconds = [answer["seconds"] for answer in own]
    baseline_seconds = [answer["seconds"] for answer in alone]
    ratios = [a / b for a, b in zip(seconds, baseline_seconds, strict=True)]
    peak, baseline_peak = own[-1]["peak_memory"], alone[-1]["peak_memory"]
    sizes = ("trained_parameters", "weights_in_memory", "multiply_adds")
    return {
        "seconds": [round(each, 4) for each in seconds],
        "baseline_seconds": [round(each, 4) for each in baseline_seconds],
        "peak_memory": peak,
        "relative": {
            **{name: round(description[name] / expected[name], 3) for name in sizes},
            "step_time": {
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
            },
            "peak_memory": peak and round(peak / baseline_peak, 3),
        },
    }
