"""What each method costs, beside peers that train alone: sizes, step time, memory.

Each method is built and trained in a process of its own, so that the peak of the
memory is its own and the defaults of its flags are nobody else's. `serve` is that
process; `compare` lets it take turns with one of `independent`. What is measured is the
step of `afd_tf.train` with its metrics, after the preparation of methods that have one,
on one batch again and again: the input pipeline has no part in it.
"""

import contextlib
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import tensorflow as tf

from afd_tf import data, distill, models, runtime
from afd_tf.data import DatasetInfo
from afd_tf.errors import UserError
from afd_tf.journal import say
from afd_tf.loop import training_function
from afd_tf.models import PeerOutput

BASELINE = "independent"

# The first traces, the second runs as all others do.
_WARM_UP_STEPS = 2


# What a worker does.


def serve() -> None:
    """Trains the method that the flags describe, turn by turn, as stdin asks.

    On stdout is one JSON object a line. The first says what was built (`describe`), or
    {"refused": ...} what was wrong with the flags. Each further one answers a line
    {"steps": n} on stdin: {"seconds": ..., "peak_memory": ...}. When stdin is closed,
    the process ends, whatever it is at.
    """
    answers, requests = sys.stdout, _requests()
    # Whatever else is printed is no answer.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            description, take_steps = prepare_from_flags()
        except UserError as error:
            _answer(answers, {"refused": str(error)})
            return
        _answer(answers, description)
        while True:
            seconds = take_steps(requests.get()["steps"])
            _answer(answers, {"seconds": seconds, "peak_memory": peak_memory()})


def prepare_from_flags() -> tuple[dict, Callable[[int], float]]:
    """Returns `describe`, and a function that takes steps and returns their seconds.

    That function raises a `UserError` if a loss or a gradient is not finite, which ends
    a turn early.

    Raises:
      UserError: flags that do not fit.
    """
    for device in tf.config.list_physical_devices("GPU"):
        # Two workers share it, and each would take all that it has.
        tf.config.experimental.set_memory_growth(device, True)
    strategy = tf.distribute.get_strategy()
    batch_size = runtime.batch_size_from_flags(strategy)
    seed = runtime.seed_from_flags()
    dataset = data.from_flags()
    method = build_from_flags(dataset.info, dataset.steps_per_epoch(batch_size))
    batches = dataset.train_batches(batch_size=batch_size, seed=seed, epochs=1)
    iterator = iter(tf.data.Dataset.from_tensors(next(iter(batches))).repeat())
    train = training_function(method, strategy, iterator, [])

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
    return describe(method, dataset.info.image_shape), take_steps


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
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    # Not getrusage's ru_maxrss, which begins with the peak of the process that
    # started this one.
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])


def peak_memory_of() -> str:
    """Returns what `peak_memory` is the peak of."""
    if tf.config.list_physical_devices("GPU"):
        return "TensorFlow's allocations on the first GPU"
    return "resident set of the process, Python and TensorFlow included (VmHWM)"


def _requests() -> queue.SimpleQueue:
    """Returns what arrives on stdin; at its end, the process ends at once.

    That is how a worker learns that the process that started it is gone, even if that
    one was killed: nobody then waits for the rest of a turn.
    """
    requests = queue.SimpleQueue()

    def listen():
        # Unbuffered: Python cannot end while a thread waits inside a buffer.
        with open(0, "rb", buffering=0, closefd=False) as lines:
            for line in lines:
                requests.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return requests


def _answer(answers: TextIO, values: Mapping) -> None:
    print(json.dumps(values), file=answers, flush=True)


def _numbers(variables: Sequence) -> int:
    each_once = {id(variable): variable for variable in variables}
    return sum(each.value.shape.num_elements() for each in each_once.values())


# What the process does that starts the workers.


class Worker:
    """Another process at `serve`; what it says on stderr is said here as well.

    It ends with the `with` block, or with this process, however that ends.

    Args:
      name: of its method.
      command: that starts it.
    """

    def __init__(self, name: str, command: Sequence[str]):
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is for this process, which then ends the other: who of the two
            # comes first would else decide what the user is told.
            start_new_session=True,
        )
        self._last_line = ""
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()
        # What a dead worker has not read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def answer(self) -> dict:
        """Returns what the worker says next.

        Raises:
          UserError: it has ended instead.
        """
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._reader.join()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise UserError(
            f"the worker of {self.name} ended with {how}; the last that it said: "
            f"{self._last_line or 'nothing'}"
        )

    def take_steps(self, steps: int) -> dict:
        """Returns "seconds" and "peak_memory" of a turn.

        Raises:
          UserError: the worker has ended.
        """
        # A dead one shows in its answer.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self._process.stdin.flush()
        return self.answer()

    def _pass_on(self) -> None:
        for line in self._process.stderr:
            sys.stderr.write(line)
            self._last_line = line.strip() or self._last_line


def compare(
    names: Sequence[str], command: Sequence[str], rounds: int, steps: int
) -> dict[str, dict | None]:
    """Measures methods, each in turns with the baseline.

    Args:
      names: of the methods. The baseline among them is measured against itself, which
        shows how exact the figures are.
      command: starts a worker once --method is added.
      rounds: turns of each side.
      steps: of a turn.

    Returns:
      by name None for a method that refuses the flags, else `describe` with "seconds"
      and "baseline_seconds" of all turns, "peak_memory", and "relative", the ratios
      to the baseline; of the step time, "median", "min" and "max" of the ratios
      within a round.

    Raises:
      UserError: the baseline refuses the flags, or a worker ends.
    """

    def worker_of(name):
        return Worker(name, [*command, f"--method={name}"])

    results: dict[str, dict | None] = {}
    say(f"{BASELINE}, which takes turns with all: tracing and warming up.")
    with worker_of(BASELINE) as baseline:
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
                turns = _take_turns(worker, baseline, rounds, steps)
            results[name] = {**description, **_summarize(*turns, description, expected)}
            time_ratio = results[name]["relative"]["step_time"]
            say(
                "{}: step time {median:.2f} ({min:.2f} to {max:.2f}) of {}'s.".format(
                    name, BASELINE, **time_ratio
                )
            )
    return results


def _take_turns(
    worker: Worker, baseline: Worker, rounds: int, steps: int
) -> tuple[list[dict], list[dict]]:
    """Returns the answers of both, a round at a time."""
    own: list[dict] = []
    alone: list[dict] = []
    for number in range(rounds):
        order = [(worker, own), (baseline, alone)]
        if number % 2:
            # Who begins takes turns as well.
            order.reverse()
        for each, answers in order:
            answers.append(each.take_steps(steps))
    return own, alone


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
