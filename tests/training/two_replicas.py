"""Trainings on one replica and on two, in 32 and in 64 bits; an experiment, no test:

python -m tests.training.two_replicas --dataset=folder:PHOTOS --image_size=72 ...

Any number of replicas computes the same mathematics, but adds up in another order. What
is left of a difference when the same training runs in 64 bits is no rounding. Takes the
flags of `afd_tf.train` and prints a line of JSON: of the metrics of all epochs, and of
the variables at the end, the largest differences beside the larger of 1 and the value.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags

from afd_tf.base.command_line import prepare_environment, quick_imports, run

with quick_imports():
    prepare_environment(training=True)

import numpy as np
import tensorflow as tf

from afd_tf import train
from tests import tensorflow_settings, tiny
from tests.float64 import compute_in_64_bits

NAME = "tests.training.two_replicas"

_BITS = flags.DEFINE_integer("bits", 32, "The bits of the numbers: 32 or 64.")
_REPLICAS = flags.DEFINE_integer("replicas", 1, "The number of replicas.")


def train_once(argv: list[str]) -> int | None:
    """Trains as the flags say."""
    tiny.register_small()
    tensorflow_settings.divide_cpu(_REPLICAS.value)
    if _BITS.value == 64:
        compute_in_64_bits()
    return train.main(argv)


def differences(one: Path, two: Path) -> dict[str, float]:
    """Returns the largest of the metrics' and of the variables' of two runs."""
    metrics = [
        [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
        for run_dir in (one, two)
    ]
    checkpoints = [
        tf.train.load_checkpoint(f"{_last(run_dir)}/variables")
        for run_dir in (one, two)
    ]
    of_metrics = [
        _difference(values[name], other[name])
        for values, other in zip(*metrics, strict=True)
        for name in values
    ]
    of_variables = [
        _difference(*(each.get_tensor(name) for each in checkpoints))
        for name, dtype in checkpoints[0].get_variable_to_dtype_map().items()
        if dtype.is_floating
    ]
    return {"metrics": max(of_metrics), "variables": max(of_variables)}


def _last(run_dir: Path) -> Path:
    return max((run_dir / "checkpoints").glob("step_*[0-9]"))


def _difference(one, two) -> float:
    return float(np.max(np.abs(one - two) / np.maximum(1.0, np.abs(one)), initial=0))


def compare(arguments: list[str]) -> dict:
    """Runs the four trainings and returns what they differ by."""
    found = {"flags": arguments}
    with tempfile.TemporaryDirectory() as directory:
        for bits in (32, 64):
            run_dirs = [Path(directory) / f"{bits}_{replicas}" for replicas in (1, 2)]
            for replicas, run_dir in zip((1, 2), run_dirs, strict=True):
                strategy = "mirrored" if replicas > 1 else "one"
                subprocess.run(
                    [
                        *(sys.executable, "-m", NAME, *arguments),
                        *(f"--bits={bits}", f"--replicas={replicas}"),
                        *(f"--strategy={strategy}", f"--run_dir={run_dir}"),
                    ],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            found[f"float{bits}"] = differences(*run_dirs)
    return found


def main() -> None:
    if any(argument.startswith("--bits=") for argument in sys.argv):
        run(train_once)
    else:
        print(json.dumps(compare(sys.argv[1:])))


if __name__ == "__main__":
    main()
