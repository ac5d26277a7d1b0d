"""Predicts the classes of image files, with a run directory or an artifact.

    python -m afd_tf.predict --artifact=savedmodels/x/1/model.tflite a.png b.jpg
    python -m afd_tf.predict --artifact=runs/cifar --top_k=3 folder
    curl -s https://... | python -m afd_tf.predict --artifact=savedmodels/x/1 -

A folder stands for all images below it, `-` for one image on the standard input.
Images of another size are cropped to the model's shape and resized, as in evaluation. A
table goes to stderr; the last line on stdout is one JSON object. A file that is no
image is reported there and makes the exit code 1; the other files are still predicted.
"""

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from afd_tf.base.command_line import prepare_environment, run
from afd_tf.base.console import progress, say
from afd_tf.base.errors import UserError

prepare_environment()

from afd_tf.artifacts import classifier
from afd_tf.data import image_files

# Decoded images that are held at a time.
_BATCH = 64
_STANDARD_INPUT = "-"


def main(argv: list[str]) -> int | None:
    """Predicts the classes of the images that the command line names."""
    arguments = argv[1:]
    if not arguments:
        raise UserError(
            "give images, folders of images, or - for one on the standard input, "
            "e.g. python -m afd_tf.predict --artifact=runs/digits a.png."
        )
    loaded = classifier.load_classifier_from_flags()
    top_k = min(classifier.top_k_from_flags(), loaded.info.num_classes)
    names = [name for argument in arguments for name in files_of(argument)]
    predictions = []
    with progress(loaded.description, len(names)) as bar:
        for start in range(0, len(names), _BATCH):
            part = names[start : start + _BATCH]
            predictions += predict(loaded, part, top_k)
            bar.update(len(part))
    show(predictions)
    result = {
        "artifact": str(loaded.path),
        "format": loaded.format,
        "name": loaded.name,
        "predictions": predictions,
    }
    print(json.dumps(result, ensure_ascii=False))
    return 1 if any("error" in each for each in predictions) else None


def files_of(argument: str) -> Iterator[str]:
    """Yields the name of a file, or of each image below a folder.

    Raises:
      UserError: there is no such file, or no image in the folder.
    """
    if argument == _STANDARD_INPUT or os.path.isfile(argument):
        yield argument
    elif not os.path.isdir(argument):
        raise UserError(f"there is no file and no folder {argument}: correct its path.")
    else:
        found = image_files.find_image_files(argument)
        if not found:
            raise UserError(f"the folder {argument} holds no images: give another.")
        yield from found


def predict(
    loaded: classifier.Classifier, names: Sequence[str], top_k: int
) -> list[dict]:
    """Predicts the classes of image files.

    Args:
      loaded: the classifier to run.
      names: files, or "-".
      top_k: number of classes to name, the most probable first.

    Returns:
      for each name {"file", "classes": [{"class", "label", "probability"}, ...]}, or
      {"file", "error"} where it is no image.
    """
    answers = [{"file": name} for name in names]
    images, readable = [], []
    for answer in answers:
        try:
            images.append(read(answer["file"], loaded.image_shape))
            readable.append(answer)
        except UserError as error:
            answer["error"] = str(error)
    if images:
        probabilities = classifier.softmax(np.float64(loaded.logits(np.stack(images))))
        for answer, row in zip(readable, probabilities, strict=True):
            answer["classes"] = [
                {
                    "class": loaded.class_names[label],
                    "label": int(label),
                    "probability": float(row[label]),
                }
                for label in np.argsort(-row, kind="stable")[:top_k]
            ]
    return answers


def read(name: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Reads a file, or the standard input, as uint8 [h, w, c].

    Raises:
      UserError: it is no image.
    """
    *size, channels = image_shape
    source = name
    if name == _STANDARD_INPUT:
        # Read once into memory: a pipe cannot be read twice, as Pillow does.
        source = io.BytesIO(sys.stdin.buffer.read())
    return image_files.read_image(
        source, channels=channels, image_size=tuple(size), name=name
    )


def show(predictions: Sequence[dict]) -> None:
    """Prints a line for each image on stderr."""
    width = max(len(each["file"]) for each in predictions)
    for each in predictions:
        if "error" in each:
            say(f"{each['file']:{width}}  error: {each['error']}")
        else:
            classes = "  ".join(
                f"{found['probability']:6.1%} {found['class']}"
                for found in each["classes"]
            )
            say(f"{each['file']:{width}}  {classes}")


if __name__ == "__main__":
    run(main)
