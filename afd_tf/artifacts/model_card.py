"""README.md of a version: what its manifest says, for people."""

from collections.abc import Mapping
from typing import Any

from afd_tf.artifacts.manifest import FORMATS, dataset_title
from afd_tf.base.console import one_line

CARD = "README.md"

# Up to so many classes, each has a row.
_MOST_ROWS = 50
# Of more classes, so many of the worst and of the best are named.
_NAMED = 5

# Kind of a format → title, and how its file is called. {path} is the file's.
_CALLS = {
    "saved_model": (
        "TensorFlow",
        "import tensorflow as tf\n"
        'model = tf.saved_model.load(".")\n'
        'outputs = model.signatures["serving_default"](image=tf.constant(images))\n'
        'probabilities = outputs["probabilities"].numpy()',
    ),
    "tflite": (
        "LiteRT (`pip install ai-edge-litert`)",
        "from ai_edge_litert.interpreter import Interpreter\n"
        'network = Interpreter("{path}").get_signature_runner()\n'
        "probabilities = network(image=images[:{batch_size}])"
        '["probabilities"]',
    ),
    "keras": (
        "Keras",
        "import keras\n"
        'model = keras.saving.load_model("{path}")\n'
        "probabilities = model.predict(images)\n"
        'features = keras.Model(model.input, model.get_layer("features").output)',
    ),
    "onnx": (
        "ONNX Runtime (`pip install onnxruntime`)",
        "import onnxruntime\n"
        'session = onnxruntime.InferenceSession("{path}")\n'
        '(probabilities,) = session.run(["probabilities"], {{"image": images}})',
    ),
    "openvino": (
        "OpenVINO (`pip install openvino`)",
        "import openvino\n"
        'model = openvino.Core().compile_model("{path}", "CPU")\n'
        'probabilities = model([images])["probabilities"]',
    ),
}


def model_card(manifest: Mapping[str, Any]) -> str:
    """Returns the Markdown text of a version's README.md.

    Args:
      manifest: complete but for the card itself.
    """
    lines = [
        *_head(manifest),
        *_formats(manifest["formats"], manifest["measured_with"]),
        *_classes(manifest),
        *_use(manifest),
        *_limits(manifest),
        *_training(manifest),
    ]
    return "\n".join(lines) + "\n"


def _head(manifest: Mapping[str, Any]) -> list[str]:
    title = _cell(dataset_title(manifest["dataset"]["name"]))
    height, width, channels = manifest["dataset"]["image_shape"]
    colours = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    checkpoint = manifest["checkpoint"]
    method = f" with `{manifest['method']}`" if manifest["method"] else ""
    license_name = manifest.get("license") or "not stated"
    return [
        f"# {_cell(manifest['name'])} on {title}",
        "",
        f"This network sorts images into {manifest['classes']:,} classes. It was "
        f"trained{method} on {title}, and found the class of "
        f"{checkpoint['accuracy']:.2%} of {checkpoint['examples']:,} test images.",
        "",
        "| | |",
        "|---|---|",
        f"| input | raw pixels 0..255, uint8 [B, {height}, {width}, {channels}], "
        f"{colours}; the normalization is inside |",
        "| output | the probability of each class, in the order of `labels.txt` |",
        f"| parameters | {manifest['parameters']:,} |",
        f"| multiply-adds for an image | {manifest['multiply_adds']:,} |",
        f"| license of the network | {_cell(license_name)} |",
        "",
    ]


def _formats(formats: Mapping[str, Mapping[str, Any]], measured_with: str) -> list[str]:
    lines = [
        "## Files",
        "",
        "Each was measured on the test images; two columns compare it with the network "
        "as it was trained: how often both see the same class, and the largest "
        f"difference of a probability. The time is that of one call ({measured_with}), "
        "with one image unless the file takes more at a time.",
        "",
        "| format | file | kB | accuracy | same class | difference | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in formats.items():
        if entry.get("refused"):
            continue
        path = "this directory" if entry["path"] == "." else f"`{entry['path']}`"
        lines.append(
            f"| `{name}` | {path} | {entry['bytes'] / 1e3:,.0f} | "
            f"{entry['accuracy']:.2%} | {entry['agreement']:.2%} | "
            f"{entry['probability_difference']:.1e} | {entry['milliseconds']:.2f} |"
        )
    refused = [entry["reason"] for entry in formats.values() if entry.get("refused")]
    return [*lines, *(f"\nLeft out: {_cell(reason)}." for reason in refused), ""]


def _classes(manifest: Mapping[str, Any]) -> list[str]:
    names = [_cell(name) for name in manifest["dataset"]["class_names"]]
    checkpoint = manifest["checkpoint"]
    rows = [
        (accuracy, names[label], checkpoint["class_examples"][label])
        for label, accuracy in enumerate(checkpoint["class_accuracy"])
        if accuracy is not None
    ]
    lines = ["## Classes", ""]
    if len(names) > _MOST_ROWS:
        ordered = sorted(rows, key=lambda row: row[0])
        lines += [f"The {_NAMED} worst and the {_NAMED} best of {len(names):,}:", ""]
        rows = [*ordered[:_NAMED], *ordered[-_NAMED:]]
    lines += ["| class | found | of test images |", "|---|---|---|"]
    lines += [f"| {name} | {found:.1%} | {count:,} |" for found, name, count in rows]
    mistakes = [
        f"{names[true]} taken for {names[predicted]} ({count:,})"
        for true, predicted, count in checkpoint["most_confused"]
    ]
    if mistakes:
        lines += ["", f"Most frequent mistakes: {'; '.join(mistakes)}."]
    return [*lines, ""]


def _use(manifest: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Use",
        "",
        "`images` are uint8, of the shape above. The largest centre of that shape was "
        "cut out of each image and resized, bilinear and antialiased; "
        "`python -m afd_tf.predict --artifact=FILE photo.jpg` does that.",
        "",
    ]
    shown = set()
    for name, entry in manifest["formats"].items():
        kind = FORMATS[name].kind
        if entry.get("refused") or kind in shown:
            continue
        shown.add(kind)
        title, code = _CALLS[kind]
        code = code.format(path=entry["path"], batch_size=entry["batch_size"])
        lines += [f"{title}:", "", "```python", code, "```", ""]
    if "tflite" in shown and manifest["dataset"]["image_shape"][2] == 3:
        lines += [
            "The `.tflite` files hold the metadata and the class names that MediaPipe "
            "Tasks read: give one to `ImageClassifier`.",
            "",
        ]
    return [
        *lines,
        "`python -m afd_tf.benchmark artifacts --artifact=.` measures how long each "
        "takes on a machine.",
        "",
    ]


def _limits(manifest: Mapping[str, Any]) -> list[str]:
    title = _cell(dataset_title(manifest["dataset"]["name"]))
    return [
        "## Limits",
        "",
        f"It knows the classes and the kind of images of {title}, and nothing else: of "
        "an image of anything else it names one of these classes too, often with a "
        "high probability. Its probabilities are not calibrated. The figures above "
        "hold for images like those of the test; on others they have not been "
        "measured, nor has the network been examined for use in decisions about "
        "people.",
        "",
    ]


def _training(manifest: Mapping[str, Any]) -> list[str]:
    lines = ["## Training", "", f"Exported with {_versions(manifest)}."]
    if "earlier" in manifest:
        earlier = _versions(manifest["earlier"])
        lines[-1] += f" The weights are those of an earlier export, with {earlier}."
    given = {
        name: dataset_title(text) if name == "dataset" else text
        for name, text in manifest["flags"].items()
    }
    if not given:
        return lines
    flags = [f"--{name}={one_line(text)}" for name, text in given.items()]
    return [*lines, "", "The flags of the run:", "", "```", *flags, "```"]


def _versions(entry: Mapping[str, Any]) -> str:
    """Returns the versions and the commit that an export notes, for a sentence."""
    versions = ", ".join(f"{name} {text}" for name, text in entry["versions"].items())
    return versions + (f", commit {entry['commit']}" if entry["commit"] else "")


def _cell(text: str) -> str:
    """Returns a text that neither ends a table's cell nor is taken for markup."""
    text = one_line(text)
    for mark in "\\|`*_<[":
        text = text.replace(mark, f"\\{mark}")
    return text
