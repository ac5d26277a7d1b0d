"""Measures a run directory or an artifact on the pictures it has not seen.

    python -m afd_tf.evaluate --artifact=runs/cifar
    python -m afd_tf.evaluate --artifact=savedmodels/x/1
    python -m afd_tf.evaluate --artifact=savedmodels/x/1/model.tflite [--data_dir=DIR]

The data set is the one it was trained on, opened as the run did; --dataset=... names
another one with the same classes. The last line on stdout is one JSON object.
"""

import json

from afd_tf.command_line import prepare_environment, refuse_arguments, run

prepare_environment()

from afd_tf.measurement import dataset_from_flags, measure  # noqa: E402
from afd_tf.runner import load_runner_from_flags  # noqa: E402

_SPLIT = "test"


def main(argv: list[str]) -> None:
    """Measures what the command line names."""
    refuse_arguments(argv)
    runner = load_runner_from_flags()
    dataset = dataset_from_flags(runner.info, runner.run_flags)
    measured = measure(runner, dataset, _SPLIT)
    if runner.format != "checkpoint":
        # One network has no mean and no ensemble.
        measured = {name: measured[name] for name in ("examples", "accuracy")}
    result = {
        "artifact": str(runner.path),
        "format": runner.format,
        "name": runner.networks[runner.chosen].name,
        "dataset": dataset.info.name,
        "split": _SPLIT,
        **measured,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
