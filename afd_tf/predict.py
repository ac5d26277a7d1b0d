"""Says what is on pictures, with a run directory or an artifact.

    python -m afd_tf.predict --artifact=savedmodels/x/1/model.tflite a.png b.jpg
    python -m afd_tf.predict --artifact=runs/cifar --top_k=3 folder
    curl -s https://... | python -m afd_tf.predict --artifact=savedmodels/x/1 -

A folder stands for all pictures below it, `-` for one picture on the standard input.
Pictures of another size are cut to the model's shape and resized, as in evaluation. A
table goes to stderr; the last line on stdout is one JSON object. A file that is no
picture is reported there, and makes the exit code 1; the others are still answered.
"""

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence

from afd_tf.command_line import prepare_environment, run

prepare_environment()

import numpy as np  # noqa: E402

from afd_tf.data.pictures import picture_files, read_picture  # noqa: E402
from afd_tf.errors import UserError  # noqa: E402
from afd_tf.journal import progress, say  # noqa: E402
from afd_tf.measurement import softmax  # noqa: E402
from afd_tf.runner import (  # noqa: E402
    Runner,
    load_runner_from_flags,
    top_k_from_flags,
)

# Decoded pictures that are held at a time.
_BATCH = 64
_STANDARD_INPUT = "-"


def main(argv: list[str]) -> int | None:
    """Answers for what the command line names."""
    arguments = argv[1:]
    if not arguments:
        raise UserError(
            "give pictures, folders of pictures, or - for one on the standard input, "
            "e.g. python -m afd_tf.predict --artifact=runs/digits a.png."
        )
    runner = load_runner_from_flags()
    top_k = min(top_k_from_flags(), runner.info.num_classes)
    names = [name for argument in arguments for name in files_of(argument)]
    predictions = []
    with progress(runner.description, len(names)) as bar:
        for start in range(0, len(names), _BATCH):
            part = names[start : start + _BATCH]
            predictions += predict(runner, part, top_k)
            bar.update(len(part))
    show(predictions)
    result = {
        "artifact": str(runner.path),
        "format": runner.format,
        "name": runner.networks[runner.chosen].name,
        "predictions": predictions,
    }
    print(json.dumps(result, ensure_ascii=False))
    return 1 if any("error" in each for each in predictions) else None


def files_of(argument: str) -> Iterator[str]:
    """Yields the file itself, or all pictures below a folder, by their names.

    Raises:
      UserError: there is no such file, or no picture in the folder.
    """
    if argument == _STANDARD_INPUT or os.path.isfile(argument):
        yield argument
    elif not os.path.isdir(argument):
        raise UserError(f"there is no file and no folder {argument}.")
    else:
        found = picture_files(argument)
        if not found:
            raise UserError(f"the folder {argument} holds no pictures.")
        yield from found


def predict(runner: Runner, names: Sequence[str], top_k: int) -> list[dict]:
    """Runs the chosen network on pictures.

    Args:
      runner: what to run.
      names: files, or "-".
      top_k: how many classes to name, the most probable first.

    Returns:
      for each name {"file", "classes": [{"class", "label", "probability"}, ...]}, or
      {"file", "error"} where it is no picture.
    """
    height, width, channels = runner.image_shape
    images, answers = [], []
    for name in names:
        try:
            # Its bytes are read once: what comes through a pipe cannot be again.
            source = io.BytesIO(sys.stdin.buffer.read()) if name == "-" else name
            image = read_picture(
                source, channels=channels, image_size=(height, width), name=name
            )
        except UserError as error:
            answers.append({"file": name, "error": str(error)})
            continue
        images.append(image)
        answers.append({"file": name})
    if not images:
        return answers
    probabilities = iter(softmax(np.float64(runner.logits(np.stack(images)))))
    for answer in answers:
        if "error" not in answer:
            own = next(probabilities)
            best = np.argsort(-own, kind="stable")[:top_k]
            answer["classes"] = [
                {
                    "class": runner.class_names[label],
                    "label": int(label),
                    "probability": float(own[label]),
                }
                for label in best
            ]
    return answers


def show(predictions: Sequence[dict]) -> None:
    """Prints a line for each picture on stderr."""
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
