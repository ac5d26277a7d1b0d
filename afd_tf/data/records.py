"""The record of a run's images: which ones, of which class, on which side.

A run directory keeps it (`dumps`, `loads`), so that the run goes on, is evaluated and
exported with the same images on the same sides, whatever happens to the folder.
Images are recognized by their content: renamed files and moved folders are the same.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.data.image_file import ImageFile
from afd_tf.data.names import some

# What to do about images that are not those of the record.
CHANGED_DATA = ("refuse", "recorded", "available")

# Half of a sha256: enough to tell images apart.
_HASH_DIGITS = 32

Record = dict[str, Any]
Placed = tuple[ImageFile, str]  # an image and its side


def make(images: Sequence[Placed], class_names: Sequence[str]) -> Record:
    """Returns the record of images, as JSON values.

    Args:
      images: each with its side, in the order of the data set.
      class_names: one name per label.
    """
    return {
        "format": 1,
        "images": [
            [side, class_names[image.label], image.path, image.sha256[:_HASH_DIGITS]]
            for image, side in images
        ],
    }


def dumps(record: Record) -> str:
    """Returns a record as ASCII text with a line for each image.

    It is JSON, in which names of any bytes have an escaped form.
    """
    lines = ",\n".join(f"  {json.dumps(image)}" for image in record["images"])
    return f'{{"format": {record["format"]}, "images": [\n{lines}\n]}}\n'


def loads(text: str) -> Record:
    """Returns the record that `dumps` wrote.

    Raises:
      UserError: it is none, or that of a newer version.
    """
    try:
        record = json.loads(text)
        if record["format"] == 1 and all(len(row) == 4 for row in record["images"]):
            return record
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(
        "the record of the run's images is damaged, or of a newer version of afd_tf: "
        "begin a new run in another --run_dir."
    )


def apply(
    record: Record,
    images: Sequence[Placed],
    class_names: Sequence[str],
    *,
    changed_data: str,
    name: str,
) -> list[Placed]:
    """Returns the images of a record, in its order and on its sides.

    Args:
      record: of the run.
      images: those that are there now; the sides are those given by the data set, or
        "" where it gives none.
      class_names: one name per label.
      changed_data: "refuse" refuses any difference, "recorded" leaves out images that
        were added, and "available" also goes without missing ones.
      name: the data set's name in messages.

    Raises:
      UserError: the images differ in a way that `changed_data` does not allow.
    """
    by_hash: dict[str, list[Placed]] = defaultdict(list)
    for image, given in images:
        by_hash[image.sha256[:_HASH_DIGITS]].append((image, given))
    labels = {class_name: label for label, class_name in enumerate(class_names)}
    chosen, missing, moved = [], [], []
    for side, class_name, path, digest in record["images"]:
        candidates = by_hash[digest]
        label = labels.get(class_name)
        if not candidates or label is None:
            missing.append(path)
            continue
        # Of copies, the one with the path and the class.
        best = min(
            candidates, key=lambda item: (item[0].path != path, item[0].label != label)
        )
        candidates.remove(best)
        image, given = best
        # Validation images may have been taken from a folder of training images.
        possible = ("", side, "train") if side == "validation" else ("", side)
        if image.label != label or given not in possible:
            moved.append(image.path)
        chosen.append((image._replace(label=label), side))
    added = [image.path for rest in by_hash.values() for image, _ in rest]
    changes = {"added": added, "removed": missing, "in another class or split": moved}
    text = ", ".join(
        f"{len(paths)} {what} ({some(paths)})"
        for what, paths in changes.items()
        if paths
    )
    if not text:
        return chosen
    if changed_data == "available":
        say(
            f"the images of {name} have changed since the run began: {text}. Those of "
            f"the run that are still there are used, on the sides they had."
        )
        return chosen
    if missing:
        raise UserError(
            f"the images of {name} have changed since the run began: {text}. Restore "
            f"those that were removed, or begin a new run with another --run_dir."
        )
    if changed_data == "refuse":
        raise UserError(
            f"the images of {name} have changed since the run began: {text}. Give "
            f"--changed_data=recorded to go on with the images it began with, or "
            f"another --run_dir to begin a new run with all."
        )
    return chosen
