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
import os
import sys
import time
from collections.abc import Sequence

from afd_tf.base.command_line import prepare_environment, run
from afd_tf.base.console import one_line, progress, say
from afd_tf.base.errors import UserError
from afd_tf.base.json_text import print_json

_BEGAN = time.perf_counter()
# Files for phones and for ONNX Runtime do without it, and answer ten times sooner.
prepare_environment(tensorflow=False)

import numpy as np

from afd_tf.artifacts import classifier
from afd_tf.artifacts.networks import softmax
from afd_tf.data import DatasetInfo, image_files

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
    names = files_of(arguments)
    predictions: list[dict] = []
    first_answer = 0.0
    with progress(loaded.description, len(names)) as bar:
        for start in range(0, len(names), _BATCH):
            part = names[start : start + _BATCH]
            predictions += predict(loaded, part, top_k)
            first_answer = first_answer or seconds_since_start()
            bar.update(len(part))
    show(predictions)
    say(f"first answer {first_answer:.2f} s after the command began.")
    result = {
        "artifact": str(loaded.path),
        "format": loaded.format,
        "name": loaded.name,
        "first_answer_seconds": round(first_answer, 3),
        "predictions": predictions,
    }
    print_json(result)
    return 1 if any("error" in each for each in predictions) else None


def seconds_since_start() -> float:
    """Returns how long this process has run; without Linux's /proc, from its imports.

    So the time that Python and the imports took is counted.
    """
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            # Behind the program's name, which may hold anything, the 20th field: the
            # start, in ticks since the machine began.
            ticks = float(file.read().rpartition(")")[2].split()[19])
        began = ticks / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, AttributeError, ValueError, IndexError):
        return time.perf_counter() - _BEGAN


def files_of(arguments: Sequence[str]) -> list[str]:
    """Returns the names of files, for a folder those of the images below it.

    A name that stands for no image is kept, to be reported beside the others' answers.

    Raises:
      UserError: there is no other name.
    """
    names = []
    for argument in arguments:
        is_folder = os.path.isdir(argument)
        found = image_files.find_image_files(argument) if is_folder else []
        names += found or [argument]
    if all(problem_of(name) for name in names):
        raise UserError(problem_of(names[0]))
    return names


def problem_of(name: str) -> str | None:
    """Returns why a name stands for no image; None if it may."""
    if name == _STANDARD_INPUT:
        return None
    if os.path.isdir(name):
        return f"the folder {name} holds no images: give another."
    if os.path.islink(name) and not os.path.exists(name):
        return f"{name} is a link to {os.readlink(name)}, which is not there."
    if not os.path.exists(name):
        return f"there is no file and no folder {name}: correct its path."
    return None


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
      {"file", "error"} where it is no image that can be read.
    """
    answers = [{"file": name} for name in names]
    images, readable = [], []
    for answer in answers:
        try:
            images.append(read(answer["file"], loaded.info))
            readable.append(answer)
        except UserError as error:
            answer["error"] = str(error)
        # The decoders of all formats raise what they like, e.g. NotImplementedError;
        # one bad file must not cost the answers for all others.
        except Exception as error:
            answer["error"] = (
                f"{answer['file']} is no image that can be read "
                f"({type(error).__name__}: {error}): remove or repair it."
            )
    if images:
        probabilities = softmax(np.float64(loaded.logits(np.stack(images))))
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


def read(name: str, info: DatasetInfo) -> np.ndarray:
    """Reads a file, or the standard input, as uint8 [h, w, c] of the shape of `info`.

    Raises:
      UserError: it is no image.
    """
    *size, channels = info.image_shape
    source = name
    if problem := problem_of(name):
        raise UserError(problem)
    if name == _STANDARD_INPUT:
        # Read once into memory: a pipe cannot be read twice, as Pillow does.
        source = io.BytesIO(sys.stdin.buffer.read())
    return image_files.read_image(
        source,
        channels=channels,
        image_size=tuple(size),
        name=name,
        white_level=info.white_level,
    )


def show(predictions: Sequence[dict]) -> None:
    """Prints a line for each image on stderr."""
    width = max(len(one_line(each["file"])) for each in predictions)
    for each in predictions:
        if "error" in each:
            text = f"error: {one_line(each['error'])}"
        else:
            text = "  ".join(
                f"{found['probability']:6.1%} {one_line(found['class'])}"
                for found in each["classes"]
            )
        say(f"{one_line(each['file']):{width}}  {text}")


if __name__ == "__main__":
    run(main)
