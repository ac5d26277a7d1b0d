"""Steps of AFD on one replica and on two; no test, but an experiment on any network:

python -m tests.models.two_replicas --side=64 keras:ResNet50 keras:DenseNet121

Each network learns beside a small one. The same step on one replica with the images in
reverse is the same mathematics, too: it shows what rounding alone does to a network.
In 64 bits (`--bits=64`) there is next to none of it. Prints a line of JSON for each.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from afd_tf.base.command_line import quick_imports

with quick_imports():
    import tensorflow as tf

import keras
import numpy as np
from absl import flags

from afd_tf import models
from afd_tf.distill.methods import build_method
from afd_tf.training.strategy import strategy_from_flags
from tests import tensorflow_settings, tiny
from tests.float64 import compute_in_64_bits

NAME = "tests.models.two_replicas"
TOLERANCE = 1e-5
BATCH = 8


def arguments(
    output, *names, replicas=1, side=16, steps=1, reverse=False, bits=32
) -> list[str]:
    """Returns the command that writes the arrays of these networks."""
    return [
        *(sys.executable, "-m", NAME, f"--output={output}", f"--side={side}"),
        *(f"--replicas={replicas}", f"--steps={steps}", f"--bits={bits}"),
        *(["--reverse"] if reverse else []),
        *names,
    ]


def take_steps(name, strategy, side, steps, reverse) -> dict[str, np.ndarray]:
    """Returns each variable before ("old") and after the steps ("new")."""
    shape = (side, side, 3)
    batch = tiny.batch(size=BATCH, image_shape=shape)
    if reverse:
        batch = {key: values[::-1] for key, values in batch.items()}
    with strategy.scope():
        keras.utils.set_random_seed(1)
        peers = models.build_peers([name, "small"], tiny.info(shape))
        method = tiny.compiled(build_method("afd", peers))
    share = BATCH // strategy.num_replicas_in_sync

    @tf.function(autograph=False)
    def step():
        def part():
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group * share
            return method.take_step(
                {key: x[first : first + share] for key, x in batch.items()}
            )

        return strategy.run(part)

    # Networks of one kind have paths in common.
    keys = [f"{number} {v.name}" for number, v in enumerate(method.variables)]
    old = dict(zip(keys, tiny.values(method.variables), strict=True))
    for _ in range(steps):
        step()
    new = dict(zip(keys, tiny.values(method.variables), strict=True))
    return {
        f"{name} {kind} {key}": value
        for kind, values in (("old", old), ("new", new))
        for key, value in values.items()
    }


def compare(name: str, side: int, steps: int, bits: int) -> dict:
    """Runs the three processes of a network and returns their differences."""
    with tempfile.TemporaryDirectory() as directory:
        found = {}
        for kind, settings in (
            ("one", {}),
            ("two_replicas", {"replicas": 2}),
            ("reverse", {"reverse": True}),
        ):
            output = Path(directory) / f"{kind}.npz"
            command = arguments(
                output, name, side=side, steps=steps, bits=bits, **settings
            )
            subprocess.run(command, check=True)
            found[kind] = dict(np.load(output))
    new = [key for key in found["one"] if f"{name} new " in key]
    one = found["one"]
    moved = [np.abs(one[key] - one[key.replace(" new ", " old ")]) for key in new]
    result = {
        "network": name,
        "image_size": side,
        "steps": steps,
        "bits": bits,
        "variables": len(new),
        "largest_step": max(float(each.max()) for each in moved),
    }
    for kind in ("two_replicas", "reverse"):
        differences = [np.abs(found[kind][key] - one[key]) for key in new]
        beyond = [
            np.any(difference > TOLERANCE + TOLERANCE * np.abs(one[key]))
            for key, difference in zip(new, differences, strict=True)
        ]
        result[kind] = {
            "largest_difference": max(float(each.max()) for each in differences),
            "variables_beyond_1e-5": int(sum(beyond)),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps of AFD on two replicas.")
    parser.add_argument("names", nargs="+", help="networks, as --peers names them")
    parser.add_argument("--side", type=int, default=16, help="pixels of the images")
    parser.add_argument("--steps", type=int, default=1, help="number of steps")
    parser.add_argument("--output", help="file for the arrays; else, compares")
    parser.add_argument("--replicas", type=int, default=1, help="number of replicas")
    parser.add_argument("--reverse", action="store_true", help="turns the batch round")
    parser.add_argument("--bits", type=int, default=32, help="of a number: 32 or 64")
    given = parser.parse_args()
    if not given.output:
        for name in given.names:
            found = compare(name, given.side, given.steps, given.bits)
            print(json.dumps(found), flush=True)
        return
    tiny.register_small()
    replicas = given.replicas
    flags.FLAGS([NAME, f"--strategy={'mirrored' if replicas > 1 else 'one'}"])
    tensorflow_settings.divide_cpu(replicas)
    tensorflow_settings.begin_sooner()
    if given.bits == 64:
        compute_in_64_bits()
    strategy = strategy_from_flags()
    arrays = {}
    for name in given.names:
        arrays |= take_steps(name, strategy, given.side, given.steps, given.reverse)
    np.savez(given.output, **arrays)


if __name__ == "__main__":
    main()
