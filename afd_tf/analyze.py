"""Says what the peers of a run have in common, where they look, and who won.

    python -m afd_tf.analyze --run_dir=runs/cifar
    python -m afd_tf.analyze --run_dir=runs/afd --other_runs=runs/dml,runs/alone
    python -m afd_tf.analyze --run_dir=runs/cifar --classes=apple,bear --pictures=6
    python -m afd_tf.analyze --run_dir=runs/cifar --files=a.png,b.jpg

Writes, as far as it applies to the run, into --output_dir:

    similarity.json, .png       L1, L2 and cosine between the feature maps of every two
                                networks (Table 7 of the AFD paper), and linear CKA
    gradcam.png                 Grad-CAM of every network for some pictures
    discriminators.json, .png   how often each discriminator was right in training

The last line on stdout is one JSON object.
"""

import contextlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from afd_tf.command_line import prepare_environment, run

prepare_environment()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import flags  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from afd_tf import analysis, data, runtime  # noqa: E402
from afd_tf.checkpoint import checkpoint_from_flags, load_peers  # noqa: E402
from afd_tf.data import DatasetInfo  # noqa: E402
from afd_tf.data.pictures import read_picture  # noqa: E402
from afd_tf.errors import UserError, unknown_name  # noqa: E402
from afd_tf.journal import progress, read_flags, say, writing_to  # noqa: E402
from afd_tf.measurement import dataset_from_flags  # noqa: E402
from afd_tf.models import Peer  # noqa: E402

# A row each; a picture of more rows than some 300 cannot be drawn.
_MOST_PICTURES = 100

_OTHER_RUNS = flags.DEFINE_list(
    "other_runs",
    [],
    "Run directories whose peers are compared with those of --run_dir.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where to write. Default: <run_dir>/analysis."
)
_PICTURES = flags.DEFINE_integer(
    "pictures",
    8,
    "Test pictures for Grad-CAM, drawn with --seed.",
    lower_bound=1,
    upper_bound=_MOST_PICTURES,
)
_CLASSES = flags.DEFINE_list(
    "classes",
    [],
    "Names of the classes to draw them from, in equal shares. Default: all.",
)
_FILES = flags.DEFINE_list(
    "files",
    [],
    "Picture files for Grad-CAM instead of test pictures; cropped and resized to the "
    "run's size.",
)
_GRADCAM_CLASS = flags.DEFINE_enum(
    "gradcam_class",
    "predicted",
    ["predicted", "label"],
    "The class that Grad-CAM explains: each network's prediction, or the true label.",
)

_SPLIT = "test"
_BATCH = 256

# Pictures are mixed before they are batched: all, or at a time as many as fit here.
_MIXED_BYTES = 1 << 30


class Network(NamedTuple):
    """A peer of one of the runs.

    Attributes:
      name: unlike all others'.
      run_dir: where it comes from.
      number: of the peer in that run.
      peer: with the weights of the checkpoint.
    """

    name: str
    run_dir: Path
    number: int
    peer: Peer


def main(argv: list[str]) -> None:
    """Analyzes the run that the command line names."""
    if len(argv) > 1 or flags.FLAGS.run_dir is None:
        raise UserError("give what to analyze, e.g. --run_dir=runs/digits.")
    run_dir = Path(flags.FLAGS.run_dir)
    seed = runtime.seed_from_flags()
    networks, info = load_networks(run_dir, [Path(name) for name in _OTHER_RUNS.value])
    quotas = quotas_from_flags(info.class_names)
    *size, channels = info.image_shape
    files = [
        read_picture(path, channels=channels, image_size=tuple(size))
        for path in _FILES.value
    ]
    run_flags = read_flags(run_dir)
    dataset = dataset_from_flags(info, run_flags)

    pairs, draw = look_through(dataset, networks, quotas, seed)
    names = [network.name for network in networks]
    contents: dict[str, bytes] = {}
    similarity = [
        {**pair, "networks": [names[number] for number in pair["networks"]]}
        for pair in pairs
    ]
    if similarity:
        description = describe_similarity(networks, dataset.info, seed)
        contents["similarity.json"] = as_json({**description, "pairs": similarity})
        contents["similarity.png"] = as_png(analysis.similarity_figure(pairs, names))
        report_similarity(similarity)

    panel = grad_cam_panel(networks, info.class_names, files, draw)
    if panel is not None:
        contents["gradcam.png"] = as_png(panel)

    health = analysis.discriminator_health(
        read_metrics(run_dir), run_flags["peers"].split(",")
    )
    if health is not None:
        contents["discriminators.json"] = as_json(
            {"run_dir": str(run_dir), "peers": health}
        )
        contents["discriminators.png"] = as_png(analysis.discriminator_figure(health))
        for peer in health:
            say(f"discriminator of {peer['peer']}, {peer['state']}: {peer['advice']}")
        # The curves are too long for a line.
        curves = ("epochs", "accuracy", "real", "fake")
        health = [
            {name: value for name, value in peer.items() if name not in curves}
            for peer in health
        ]

    output_dir = Path(_OUTPUT_DIR.value or run_dir / "analysis")
    write_files(output_dir, contents)
    result = {
        "run_dir": str(run_dir),
        "output_dir": str(output_dir),
        "split": _SPLIT,
        "examples": dataset.info.examples[_SPLIT],
        "similarity": similarity,
        "discriminators": health,
        "files": [str(output_dir / name) for name in contents],
    }
    print(json.dumps(result))


def load_networks(
    run_dir: Path, others: Sequence[Path]
) -> tuple[list[Network], DatasetInfo]:
    """Loads the peers of all runs, and the info of the first one's data set.

    Raises:
      UserError: no run directory, one given twice, or runs that do not go together.
    """
    runs: dict[Path, list[Peer]] = {}
    info = None
    for directory in (run_dir, *others):
        if any(directory.resolve() == known.resolve() for known in runs):
            raise UserError(f"{directory} is given twice: name each run once.")
        runs[directory], found = load_peers(directory, checkpoint_from_flags())
        info = info or found
        if found.image_shape != info.image_shape:
            difference = f"pictures of {found.image_shape}, not {info.image_shape}"
        elif found.class_names != info.class_names:
            difference = f"other classes ({found.num_classes}, not {info.num_classes})"
            if found.num_classes == info.num_classes:
                difference = "classes of other names or in another order"
        else:
            continue
        raise UserError(
            f"{directory} was trained on {found.name}, {run_dir} on {info.name}: it "
            f"has {difference}. Give --other_runs of the same pictures and classes."
        )

    titles = [directory.resolve().name for directory in runs]
    if len(set(titles)) < len(titles):
        titles = [str(directory) for directory in runs]
    networks = []
    for title, (directory, peers) in zip(titles, runs.items(), strict=True):
        kinds = [peer.name for peer in peers]
        for number, peer in enumerate(peers):
            name = peer.name
            if kinds.count(name) > 1:
                name += f" (peer_{number})"
            if len(runs) > 1:
                name = f"{title}/{name}"
            networks.append(Network(name, directory, number, peer))
    return networks, info


def quotas_from_flags(class_names: Sequence[str]) -> dict[int | None, int]:
    """Returns how many pictures to draw of which label; None stands for any.

    Raises:
      UserError: an unknown class, fewer pictures than classes, or flags that exclude
        each other.
    """
    if _FILES.value:
        if _CLASSES.value or _GRADCAM_CLASS.value == "label":
            given = "--classes" if _CLASSES.value else "--gradcam_class=label"
            raise UserError(
                f"{given} is for test pictures, --files have no labels: give one of "
                "the two."
            )
        if len(_FILES.value) > _MOST_PICTURES:
            raise UserError(
                f"--files names {len(_FILES.value)} pictures: give at most "
                f"{_MOST_PICTURES}."
            )
        return {}
    if not _CLASSES.value:
        return {None: _PICTURES.value}
    names = list(dict.fromkeys(_CLASSES.value))
    for name in names:
        if name not in class_names:
            raise unknown_name("class", name, class_names)
    share, rest = divmod(_PICTURES.value, len(names))
    if share == 0:
        raise UserError(
            f"--pictures={_PICTURES.value} is too few for the {len(names)} classes of "
            f"--classes: give at least {len(names)}."
        )
    return {
        class_names.index(name): share + (position < rest)
        for position, name in enumerate(names)
    }


def mixed_batches(dataset: data.Dataset, seed: int) -> tf.data.Dataset:
    """Returns the test pictures, each once, in an order made from `seed`.

    A split may come class by class, and CKA needs batches of all sorts of pictures.
    """
    buffer = max(_BATCH, _MIXED_BYTES // math.prod(dataset.info.image_shape))
    return (
        dataset.evaluation_batches(_SPLIT, batch_size=_BATCH)
        .unbatch()
        # Without the pictures that fill up the last batch.
        .filter(lambda picture: picture["weight"] > 0)
        .shuffle(buffer, seed=seed)
        .batch(_BATCH)
        .prefetch(1)
    )


def look_through(
    dataset: data.Dataset,
    networks: Sequence[Network],
    quotas: Mapping[int | None, int],
    seed: int,
) -> tuple[list[dict], analysis.PictureDraw]:
    """Goes through the test pictures once: to compare maps, and to draw pictures.

    Returns:
      the pairs of `FeatureComparison`, and the draw.
    """
    peers = [network.peer for network in networks]
    comparison = analysis.FeatureComparison([peer.feature_shape for peer in peers])
    draw = analysis.PictureDraw(quotas, seed)
    features = analysis.feature_function(peers, dataset.info.image_shape)
    with progress("feature maps", dataset.info.examples[_SPLIT]) as bar:
        for batch in mixed_batches(dataset, seed).as_numpy_iterator():
            images, labels = batch["image"], batch["label"]
            draw.update(images, labels)
            # One network has nothing to be compared with.
            if len(networks) > 1:
                comparison.update(features(images))
            bar.update(len(labels))
    return comparison.pairs(), draw


def describe_similarity(
    networks: Sequence[Network], info: DatasetInfo, seed: int
) -> dict:
    """Returns what the figures of similarity.json are of."""
    return {
        "dataset": info.name,
        "split": _SPLIT,
        "examples": info.examples[_SPLIT],
        "checkpoint": checkpoint_from_flags(),
        "maps": "F = features, the map that enters global average pooling",
        "measures": analysis.MEASURES,
        "cka_batch_size": _BATCH,
        "seed": seed,
        "networks": [
            {
                "name": network.name,
                "run_dir": str(network.run_dir),
                "peer": network.number,
                "feature_shape": list(network.peer.feature_shape),
            }
            for network in networks
        ],
    }


def report_similarity(similarity: Sequence[Mapping]) -> None:
    """Prints the measures of every two networks in a line."""
    for pair in similarity:
        values = ", ".join(
            f"{title} {pair[name]:.4g}"
            for title, name in zip(
                ("L1", "L2", "cosine", "CKA"), analysis.MEASURES, strict=True
            )
            if pair[name] is not None
        )
        note = f" ({pair['note']})" if pair["note"] else ""
        say(f"{' and '.join(pair['networks'])}: {values}{note}")


def grad_cam_panel(
    networks: Sequence[Network],
    class_names: Sequence[str],
    files: Sequence[np.ndarray],
    draw: analysis.PictureDraw,
) -> Figure | None:
    """Returns the panel of the files or the pictures drawn; None where none are."""
    labels = None
    if files:
        images, titles = files, [Path(path).name for path in _FILES.value]
    else:
        images, labels = draw.result()
        titles = [class_names[label] for label in labels]
        if len(images) < _PICTURES.value:
            say(f"there are {len(images)} such test pictures, not {_PICTURES.value}.")
        if not images:
            return None
    images = np.stack(images)
    by_label = _GRADCAM_CLASS.value == "label"
    return analysis.grad_cam_figure(
        images,
        titles=titles,
        labels=labels,
        results={
            network.name: analysis.grad_cam(
                network.peer, images, labels if by_label else None
            )
            for network in networks
        },
        class_names=class_names,
        explained="true class" if by_label else "predicted class",
    )


def read_metrics(run_dir: Path) -> list[dict]:
    """Returns the epochs of a run's `metrics.jsonl`; none where there is no file."""
    path = run_dir / "metrics.jsonl"
    metrics = []
    for line in path.read_text().splitlines() if path.exists() else ():
        # The last one may be cut off, by a crash or because the run is at it.
        with contextlib.suppress(ValueError):
            metrics.append(json.loads(line))
    return metrics


def as_json(values: Mapping) -> bytes:
    """Returns the content of a JSON file."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def as_png(figure: Figure) -> bytes:
    """Returns the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def write_files(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files by name, whole ones only.

    Raises:
      UserError: no space, or no permission.
    """
    works = {name: directory / f"{name}.unfinished" for name in contents}
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            for name, content in contents.items():
                works[name].write_bytes(content)
            for name, work in works.items():
                work.rename(directory / name)
        finally:
            for work in works.values():
                work.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
