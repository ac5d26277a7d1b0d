"""Measures the accuracy of a run directory or an artifact on the test images.

    python -m afd_tf.evaluate --artifact=runs/cifar
    python -m afd_tf.evaluate --artifact=savedmodels/x/1
    python -m afd_tf.evaluate --artifact=savedmodels/x/1/model.tflite [--data_dir=DIR]

The data set is the one it was trained on, opened as the run did; --dataset=... names
another one with the same classes. The last line on stdout is one JSON object.
"""

from afd_tf.base.command_line import prepare_environment, refuse_arguments, run
from afd_tf.base.json_text import print_json

prepare_environment()

from afd_tf import data
from afd_tf.artifacts import classifier, evaluation
from afd_tf.training import run_directory

_SPLIT = "test"


def main(argv: list[str]) -> None:
    """Measures what the command line names."""
    refuse_arguments(argv)
    loaded = classifier.load_classifier_from_flags()
    dataset = data.from_flags_of_run(
        loaded.info, loaded.run_flags, run_directory.read_record(loaded.path)
    )
    measured = evaluation.measure(loaded, dataset, _SPLIT)
    if loaded.format != "checkpoint":
        # One network has no mean and no ensemble.
        measured = {name: measured[name] for name in ("examples", "accuracy")}
    result = {
        "artifact": str(loaded.path),
        "format": loaded.format,
        "name": loaded.name,
        "dataset": dataset.info.name,
        "split": _SPLIT,
        **measured,
    }
    print_json(result)


if __name__ == "__main__":
    run(main)
