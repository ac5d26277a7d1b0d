"""Measures the accuracy of a run directory or an artifact on the test images.

    python -m afd_tf.evaluate --artifact=runs/cifar
    python -m afd_tf.evaluate --artifact=savedmodels/x/1 --figure=confusion.png
    python -m afd_tf.evaluate --artifact=savedmodels/x/1/model.tflite [--data_dir=DIR]

The data set is the one it was trained on, opened as the run did; --dataset=... names
another one with the same classes. The last line on stdout is one JSON object; it holds
the accuracy and the precision of each class, and the confusion matrix where there are
few classes.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afd_tf.base.command_line import prepare_environment, refuse_arguments, run
from afd_tf.base.console import one_line, say
from afd_tf.base.errors import UserError
from afd_tf.base.files import check_writable, write_together
from afd_tf.base.json_text import json_text, print_json
from afd_tf.base.paths import expanded

# Files for phones, ONNX Runtime and OpenVINO do without it, and begin sooner.
prepare_environment(tensorflow=False)

from absl import flags

from afd_tf import data
from afd_tf.analysis.confusion import Confusion
from afd_tf.artifacts import classifier, evaluation

_SPLIT = "test"
# The most classes whose confusion matrix stands in the line on stdout, of which a
# program or a person wants to see all, and the most of which it can be written at all.
_PRINTED_CLASSES = 25
_WRITTEN_CLASSES = 2000
# The worst classes and the most confused pairs that are named.
_NAMED = 5

_CONFUSION = flags.DEFINE_string(
    "confusion",
    None,
    "JSON file to write the confusion matrix of every network to, as counts of images: "
    "a row for each true class, a column for each predicted one.",
)
_FIGURE = flags.DEFINE_string(
    "figure",
    None,
    "PNG file to draw the confusion matrix to; of a run directory, that of the peer "
    "that --peer names.",
)


def main(argv: list[str]) -> None:
    """Measures what the command line names."""
    refuse_arguments(argv)
    confusion_file = file_from_flag(_CONFUSION, ".json")
    figure_file = file_from_flag(_FIGURE, ".png")
    loaded = classifier.load_classifier_from_flags()
    if confusion_file or figure_file:
        check_number_of_classes(loaded.info.num_classes)
    dataset = dataset_of(loaded)
    predictions = evaluation.predict_split(loaded, dataset, _SPLIT)
    *peers, ensemble = (
        Confusion(predictions.labels, predicted, loaded.info.num_classes)
        for predicted in (*predictions.networks, predictions.ensemble)
    )
    networks = dict(zip(network_names(loaded), peers, strict=True))
    chosen = list(networks)[loaded.chosen]
    if len(peers) > 1:
        networks["ensemble"] = ensemble
    for line in report(networks, chosen, loaded.class_names):
        say(line)

    result = {
        "artifact": str(loaded.path),
        "format": loaded.format,
        "name": loaded.name,
        "dataset": dataset.info.name,
        "split": _SPLIT,
        "examples": len(predictions.labels),
        "class_names": list(loaded.class_names),
        "class_examples": ensemble.examples.tolist(),
    }
    contents = {}
    if confusion_file:
        matrices = [
            {"name": name, **each.rates(), "confusion": each.matrix.tolist()}
            for name, each in networks.items()
        ]
        text = json_text({**result, "networks": matrices})
        contents[confusion_file] = f"{text}\n".encode()
    if figure_file:
        contents[figure_file] = draw(chosen, networks[chosen], loaded.class_names)
    write_together(contents)
    result |= as_json(networks[chosen])
    if loaded.format == "checkpoint":
        result |= of_run([each.name for each in loaded.networks], peers, ensemble)
    print_json({**result, "files": [str(path) for path in contents]})


def dataset_of(loaded: classifier.Classifier) -> evaluation.Evaluated:
    """Opens the data set that the flags name, or else the one it was trained on.

    Raises:
      UserError: the data set is not available, or has other classes or images.
    """
    if not loaded.needs_tensorflow:
        return data.arrays_from_flags_of_run(loaded.info, loaded.run_flags)
    recorded = None
    if loaded.format == "checkpoint":
        from afd_tf.training.run_directory import read_record

        recorded = read_record(loaded.path)
    return data.from_flags_of_run(loaded.info, loaded.run_flags, recorded)


def file_from_flag(flag: flags.FlagHolder, suffix: str) -> Path | None:
    """Returns the file that a flag names, which can be written; None where it has none.

    Raises:
      UserError: another suffix, no such directory, or one that cannot be written to.
    """
    if flag.value is None:
        return None
    given = f"--{flag.name}={flag.value}"
    path = expanded(flag.value, any_bytes=True)
    if path.suffix.lower() != suffix:
        raise UserError(
            f"{given} has to end in {suffix}, the format that it is written in: give "
            "such a name."
        )
    if not path.parent.is_dir():
        raise UserError(
            f"{given} is in no directory that exists: create {path.parent} first, or "
            "give another place."
        )
    if path.is_dir():
        raise UserError(f"{given} is a directory: name a file in it.")
    check_writable(path.parent)
    return path


def check_number_of_classes(num_classes: int) -> None:
    """Refuses a confusion matrix that nobody could look at.

    Raises:
      UserError: it has too many classes.
    """
    if num_classes > _WRITTEN_CLASSES:
        raise UserError(
            f"the confusion matrix of {num_classes:,} classes is too large to write: "
            f"--{_CONFUSION.name} and --{_FIGURE.name} take {_WRITTEN_CLASSES:,} "
            "classes at most. Leave them out: the accuracy of each class is on stdout, "
            "and the most frequent mistakes are on stderr."
        )


def network_names(loaded: classifier.Classifier) -> list[str]:
    """Returns the names of all networks; those of several peers have a number too."""
    names = [network.name for network in loaded.networks]
    return [
        f"{name} (peer_{number})" if names.count(name) > 1 else name
        for number, name in enumerate(names)
    ]


def report(
    networks: Mapping[str, Confusion], chosen: str, class_names: Sequence[str]
) -> list[str]:
    """Returns the accuracies, and the mistakes of one network, in a few lines.

    Args:
      networks: by name.
      chosen: the name of the network whose mistakes are shown.
      class_names: one per label.
    """
    network = networks[chosen]
    images = f"{len(network.labels):,} {_SPLIT} images"
    if len(class_names) == 1:
        return [f"{images} of one class, in which no network can be wrong."]
    width = max(map(len, networks))
    lines = [
        f"accuracy on {images} of {len(class_names):,} classes (balanced: each class "
        "counts the same):",
        *(
            f"  {name:{width}}  {each.accuracy:.2%}, balanced "
            f"{each.balanced_accuracy:.2%}"
            for name, each in networks.items()
        ),
    ]
    titles = [one_line(name) for name in class_names]
    worst = [
        f"{titles[label]} {network.class_accuracy[label]:.1%} of "
        f"{network.examples[label]:,}"
        for label in network.worst_classes(_NAMED)
    ]
    pairs = [
        f"{titles[pair.true]} taken for {titles[pair.predicted]} {pair.images:,}"
        for pair in network.most_confused(_NAMED)
    ]
    if worst:
        lines.append(f"worst classes of {chosen}: {'; '.join(worst)}")
        lines.append(f"most frequent mistakes of {chosen}: {'; '.join(pairs)}")
    if empty := int((network.examples == 0).sum()):
        lines.append(f"classes without {_SPLIT} images, which count nowhere: {empty:,}")
    return lines


def as_json(network: Confusion) -> dict[str, Any]:
    """Returns what the line on stdout says of a network."""
    printed = network.num_classes <= _PRINTED_CLASSES
    matrix = network.matrix.tolist() if printed else None
    return {**network.rates(), "confusion": matrix}


def of_run(
    names: Sequence[str], peers: Sequence[Confusion], ensemble: Confusion
) -> dict[str, Any]:
    """Returns what the line on stdout says of all networks of a run."""
    return {
        "peers": [
            {"name": name, **as_json(each)}
            for name, each in zip(names, peers, strict=True)
        ],
        "mean_accuracy": statistics.fmean(each.accuracy for each in peers),
        "mean_balanced_accuracy": statistics.fmean(
            each.balanced_accuracy for each in peers
        ),
        "ensemble_accuracy": ensemble.accuracy,
        "ensemble_balanced_accuracy": ensemble.balanced_accuracy,
        "ensemble": as_json(ensemble),
    }


def draw(name: str, network: Confusion, class_names: Sequence[str]) -> bytes:
    """Returns the content of --figure."""
    # Matplotlib, which nothing else here needs.
    from afd_tf.analysis import figures

    title = (
        f"{name}, {len(network.labels):,} {_SPLIT} images: accuracy "
        f"{network.accuracy:.2%}, balanced {network.balanced_accuracy:.2%}"
    )
    return figures.png_bytes(
        figures.confusion_figure(network.matrix, class_names, title)
    )


if __name__ == "__main__":
    run(main)
