"""Speed of the training step beside a bare loop, and of the input pipeline alone."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from afd_tf import data, models
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.benchmarks.bare_loop import BareTraining
from afd_tf.distill.methods.afd import AdversarialFeatureDistillation
from afd_tf.models.resnet import ResNet
from afd_tf.training.loop import training_function
from afd_tf.training.numerics import seed_from_flags
from afd_tf.training.strategy import batch_size_from_flags

_INPUT_SECONDS = 3.0
# So many that the learning rate does not drop during the measurement.
_EPOCHS = 1000
# The first call traces, the second step runs as all others do.
_WARM_UP_STEPS = 2


def measure_step(rounds: int, steps: int) -> dict:
    """Measures AFD's training step beside the bare loop, and the input pipeline.

    Data set, peers, batch size and seed come from the command line.

    Args:
      rounds: number of times that each of the two is measured, interleaved.
      steps: training steps of each in a round.

    Returns:
      "peers", their names; "batch_size"; "images_per_second", of "afd_tf" and "bare"
      in each round; "ratio_to_bare", the "median", "min" and "max" of the ratios
      within a round; "input_images_per_second", of the input pipeline alone, and
      "input_to_step", its ratio to the median of "afd_tf".

    Raises:
      UserError: the peers are not two CIFAR ResNets, or flags do not fit.
    """
    strategy = tf.distribute.get_strategy()
    batch_size = batch_size_from_flags(strategy)
    seed = seed_from_flags()
    dataset = data.from_flags()
    peers = models.peers_from_flags(dataset.info)
    if len(peers) != 2 or not all(isinstance(peer, ResNet) for peer in peers):
        names = ",".join(peer.name for peer in peers)
        raise UserError(
            f"--peers={names} was given, but the bare loop is written for two CIFAR "
            "ResNets only: give e.g. --peers=resnet20,resnet32."
        )
    method = AdversarialFeatureDistillation(peers)
    method.compile(epochs=_EPOCHS, steps_per_epoch=dataset.steps_per_epoch(batch_size))
    batches = dataset.train_batches(batch_size=batch_size, seed=seed, epochs=_EPOCHS)
    first = next(iter(batches))
    run_bare = BareTraining(method).loop(first["image"], first["label"])
    iterator = iter(batches)
    train, _ = training_function(method, strategy, iterator)

    def run_ours(count):
        _, sums, _ = train(iterator, tf.constant(count), tf.constant(0.0, tf.float64))
        # Waits for the device.
        sums.numpy()

    rates = _interleaved_rates(
        {"afd_tf": run_ours, "bare": run_bare}, rounds, steps, batch_size
    )
    ratios = np.divide(rates["afd_tf"], rates["bare"])
    input_rate = measure_input(dataset, batch_size)
    return {
        "peers": [peer.name for peer in peers],
        "batch_size": batch_size,
        "images_per_second": {
            name: [round(rate, 1) for rate in own] for name, own in rates.items()
        },
        "ratio_to_bare": {
            "median": round(float(np.median(ratios)), 3),
            "min": round(float(np.min(ratios)), 3),
            "max": round(float(np.max(ratios)), 3),
        },
        "input_images_per_second": round(input_rate, 1),
        "input_to_step": round(input_rate / float(np.median(rates["afd_tf"])), 1),
    }


def _interleaved_rates(
    loops: dict[str, Callable[[int], object]], rounds: int, steps: int, batch_size: int
) -> dict[str, list[float]]:
    """Returns the images per second of each loop in each round.

    Args:
      loops: by name, functions that take a number of steps and wait for their end.
      rounds: number of rounds.
      steps: training steps of each loop in a round.
      batch_size: images of a step.
    """
    say("tracing and warming up.")
    for loop in loops.values():
        loop(_WARM_UP_STEPS)
    rates = {name: [] for name in loops}
    for number in range(rounds):
        # The order is reversed in every other round: neither is always the first.
        for name in sorted(loops, reverse=bool(number % 2)):
            began = time.perf_counter()
            loops[name](steps)
            seconds = time.perf_counter() - began
            rates[name].append(steps * batch_size / seconds)
        shown = ", ".join(f"{name} {own[-1]:.1f}" for name, own in rates.items())
        say(f"round {number + 1}, images/s: {shown}")
    return rates


def measure_input(dataset: data.Dataset, batch_size: int) -> float:
    """Returns the images per second of the input pipeline alone.

    Args:
      dataset: whose training batches are read for up to 3 seconds.
      batch_size: images of a batch.
    """
    batches = iter(dataset.train_batches(batch_size=batch_size, seed=0, epochs=_EPOCHS))
    next(batches)
    began, count, seconds = time.perf_counter(), 0, 0.0
    # A small data set may be through all of its epochs earlier.
    for batch in batches:
        count += int(batch["label"].shape[0])
        seconds = time.perf_counter() - began
        if seconds > _INPUT_SECONDS:
            break
    return count / seconds
