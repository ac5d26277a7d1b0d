"""Compares the peers of a run: feature similarity, Grad-CAM, discriminator diagnosis.

    python -m afd_tf.analyze --run_dir=runs/cifar
    python -m afd_tf.analyze --run_dir=runs/afd --other_runs=runs/dml,runs/alone
    python -m afd_tf.analyze --run_dir=runs/cifar --classes=apple,bear --images=6
    python -m afd_tf.analyze --run_dir=runs/cifar --files=a.png,b.jpg

Writes, as far as it applies to the run, into --output_dir:

    similarity.json, .png       L1, L2 and cosine between the feature maps of every two
                                networks (Table 7 of the AFD paper), and linear CKA
    gradcam.png                 Grad-CAM of every network for some images
    discriminators.json, .png   accuracy of each discriminator in training, with advice

The last line on stdout is one JSON object.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afd_tf.base.command_line import prepare_environment, refuse_arguments, run
from afd_tf.base.console import say
from afd_tf.base.errors import UserError, unknown_name
from afd_tf.base.files import check_writable, write_together
from afd_tf.base.json_text import json_text, print_json
from afd_tf.base.paths import expanded

prepare_environment()

import numpy as np
from absl import flags

from afd_tf import data
from afd_tf.analysis import discriminators, figures, grad_cam, run_peers, similarity
from afd_tf.data import DatasetInfo, image_files
from afd_tf.training import checkpoint_choice, numerics, run_directory

# A row each; an image of more rows than some 300 cannot be drawn.
_MAX_IMAGES = 100

_OTHER_RUNS = flags.DEFINE_list(
    "other_runs",
    [],
    "Run directories whose peers are compared with those of --run_dir.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Directory to write to. Default: <run_dir>/analysis."
)
_IMAGES = flags.DEFINE_integer(
    "images",
    8,
    "Number of test images for Grad-CAM, drawn with --seed.",
    lower_bound=1,
    upper_bound=_MAX_IMAGES,
)
_CLASSES = flags.DEFINE_list(
    "classes",
    [],
    "Names of the classes from which the test images are drawn, in equal shares. "
    "Default: all.",
)
_FILES = flags.DEFINE_list(
    "files",
    [],
    "Image files for Grad-CAM instead of test images; cropped and resized to the "
    "run's size.",
)
_GRADCAM_CLASS = flags.DEFINE_enum(
    "gradcam_class",
    "predicted",
    ["predicted", "label"],
    "Class that Grad-CAM explains: each network's prediction, or the true label.",
)


def main(argv: list[str]) -> None:
    """Analyzes the run that the command line names."""
    refuse_arguments(argv)
    run_dir = run_directory.run_dir_from_flags()
    if run_dir is None:
        raise UserError(
            "--run_dir is not given: name the run to analyze, e.g. "
            "--run_dir=runs/digits."
        )
    seed = numerics.seed_from_flags()
    other_runs = [expanded(name) for name in _OTHER_RUNS.value]
    output_dir = expanded(_OUTPUT_DIR.value or run_dir / "analysis")
    peers, info = run_peers.load_run_peers(
        run_dir, other_runs, checkpoint_choice.checkpoint_from_flags()
    )
    sampler = grad_cam.ImageSampler(quotas_from_flags(info.class_names), seed)
    files = read_files(info)
    run_flags = run_directory.read_flags(run_dir)
    dataset = data.from_flags_of_run(
        info, run_flags, run_directory.read_record(run_dir)
    )
    check_writable(output_dir)

    pairs = similarity.collect_statistics(dataset, peers, sampler, seed)
    named_pairs = similarity.with_names(pairs, [each.name for each in peers])
    for line in similarity.summary_lines(named_pairs):
        say(line)
    health = discriminators.discriminator_health(
        run_directory.read_metrics(run_dir), run_flags["peers"].split(",")
    )
    for peer in health or ():
        say(f"discriminator of {peer['peer']}, {peer['state']}: {peer['advice']}")

    contents: dict[str, bytes] = {}
    if pairs:
        figure = figures.similarity_figure(pairs, [each.name for each in peers])
        description = similarity_description(peers, dataset.info, seed)
        contents["similarity.json"] = as_json({**description, "pairs": named_pairs})
        contents["similarity.png"] = figures.png_bytes(figure)
    if panel := grad_cam_panel(peers, info.class_names, files, sampler):
        contents["gradcam.png"] = figures.png_bytes(panel)
    if health:
        figure = figures.discriminator_figure(health)
        contents["discriminators.json"] = as_json(
            {"run_dir": str(run_dir), "peers": health}
        )
        contents["discriminators.png"] = figures.png_bytes(figure)
    write_together({output_dir / name: content for name, content in contents.items()})
    result = {
        "run_dir": str(run_dir),
        "output_dir": str(output_dir),
        "split": similarity.SPLIT,
        "examples": dataset.info.examples[similarity.SPLIT],
        "similarity": named_pairs,
        # The curves are too long for a line.
        "discriminators": health and discriminators.without_curves(health),
        "files": [str(output_dir / name) for name in contents],
    }
    print_json(result)


def quotas_from_flags(class_names: Sequence[str]) -> dict[int | None, int]:
    """Returns the number of images to draw for each label; None stands for any label.

    Raises:
      UserError: an unknown class, fewer images than classes, or flags that exclude
        each other.
    """
    if _FILES.value:
        if _CLASSES.value or _GRADCAM_CLASS.value == "label":
            given = "--classes" if _CLASSES.value else "--gradcam_class=label"
            raise UserError(
                f"{given} is for test images, --files have no labels: give one of "
                "the two."
            )
        if len(_FILES.value) > _MAX_IMAGES:
            raise UserError(
                f"--files names {len(_FILES.value)} images: give at most {_MAX_IMAGES}."
            )
        return {}
    if not _CLASSES.value:
        return {None: _IMAGES.value}
    names = list(dict.fromkeys(_CLASSES.value))
    for name in names:
        if name not in class_names:
            raise unknown_name("class", name, class_names)
    share, rest = divmod(_IMAGES.value, len(names))
    if share == 0:
        raise UserError(
            f"--images={_IMAGES.value} is too few for the {len(names)} classes of "
            f"--classes: give at least {len(names)}."
        )
    return {
        class_names.index(name): share + (position < rest)
        for position, name in enumerate(names)
    }


def read_files(info: DatasetInfo) -> list[np.ndarray]:
    """Returns the images of --files, uint8 [h, w, c] of the run's size."""
    *size, channels = info.image_shape
    return [
        image_files.read_image(
            expanded(path, any_bytes=True),
            channels=channels,
            image_size=tuple(size),
            white_level=info.white_level,
        )
        for path in _FILES.value
    ]


def similarity_description(
    peers: Sequence[run_peers.RunPeer], info: DatasetInfo, seed: int
) -> dict[str, Any]:
    """Returns what similarity.json says besides the measures of the pairs."""
    return {
        "dataset": info.name,
        "split": similarity.SPLIT,
        "examples": info.examples[similarity.SPLIT],
        "checkpoint": checkpoint_choice.checkpoint_from_flags(),
        "maps": "F = features, the map that enters global average pooling",
        "measures": similarity.MEASURES,
        "cka_batch_size": similarity.BATCH,
        "seed": seed,
        "networks": [
            {
                "name": each.name,
                "run_dir": str(each.run_dir),
                "peer": each.number,
                "feature_shape": list(each.peer.feature_shape),
            }
            for each in peers
        ],
    }


def grad_cam_panel(
    peers: Sequence[run_peers.RunPeer],
    class_names: Sequence[str],
    files: Sequence[np.ndarray],
    sampler: grad_cam.ImageSampler,
) -> figures.Figure | None:
    """Draws Grad-CAM of the files or of the sampled images; None where none are."""
    if files:
        images, labels = files, None
        titles = [Path(path).name for path in _FILES.value]
    else:
        images, labels = sampler.result()
        titles = [class_names[label] for label in labels]
        if len(images) < _IMAGES.value:
            say(f"there are {len(images)} such test images, not {_IMAGES.value}.")
        if not images:
            return None
    images = np.stack(images)
    by_label = _GRADCAM_CLASS.value == "label"
    return figures.grad_cam_figure(
        images,
        titles=titles,
        labels=labels,
        results=grad_cam.grad_cams(peers, images, labels if by_label else None),
        class_names=class_names,
        explained="true class" if by_label else "predicted class",
    )


def as_json(values: Mapping[str, Any]) -> bytes:
    """Returns the content of a JSON file."""
    return (json_text(values, indent=1) + "\n").encode()


if __name__ == "__main__":
    run(main)
