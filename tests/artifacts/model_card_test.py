"""The model card says what the manifest says, and its code runs."""

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from afd_tf.artifacts.model_card import model_card
from tests import exports


def read(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    return manifest, (directory / "README.md").read_text()


def test_the_card_tells_every_file_and_every_class(deployed):
    _, _, directory = deployed
    manifest, card = read(directory)
    accuracy = manifest["checkpoint"]["accuracy"]
    assert card.startswith("# wrn\\_10\\_1 on digits\n")
    assert f"{accuracy:.2%} of 360 test images" in card
    assert "| license of the network | not stated |" in card
    for name, entry in manifest["formats"].items():
        place = "this directory" if name == "saved_model" else f"`{entry['path']}`"
        assert (
            f"| `{name}` | {place} | {entry['bytes'] / 1e3:,.0f} | "
            f"{entry['accuracy']:.2%} | {entry['agreement']:.2%} | "
            f"{entry['probability_difference']:.1e} | {entry['milliseconds']:.2f} |"
        ) in card, name
    counts = manifest["checkpoint"]["class_examples"]
    found = manifest["checkpoint"]["class_accuracy"]
    assert sum(counts) == 360
    assert np.isclose(np.dot(counts, found), 360 * accuracy)
    for digit, (own, count) in enumerate(zip(found, counts, strict=True)):
        assert f"| {digit} | {own:.1%} | {count} |" in card
    true, predicted, images = manifest["checkpoint"]["most_confused"][0]
    assert f"mistakes: {true} taken for {predicted} ({images})" in card


def test_its_code_runs_as_it_stands(deployed):
    peer, _, directory = deployed
    _, card = read(directory)
    programs = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(programs) == 5
    images = exports.random_images((8, 8, 1), 4)
    together = "\n".join(
        f"{program}\nanswers.append(numpy.asarray(probabilities)[0].tolist())"
        for program in programs
    )
    start = (
        "import json, numpy, os\n"
        f"images = numpy.array({images.tolist()}, numpy.uint8)\nanswers = []\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", f"{start}{together}\nprint(json.dumps(answers))"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    powers = np.exp(np.float64(exports.logits_of(peer, images[:1])[0]))
    for answer in json.loads(result.stdout.splitlines()[-1]):
        np.testing.assert_allclose(answer, powers / powers.sum(), atol=1e-2)


@pytest.fixture
def manifest(exported):
    return read(exported[2])[0]


def test_many_classes_and_names_that_are_markup(manifest, digits):
    names = [f"class {number}" for number in range(98)] + ["a|b\n[c]", "*d*"]
    info = dataclasses.replace(
        digits.info, class_names=tuple(names), name="folder:/home/me/my photos/"
    )
    manifest["dataset"] = info.to_json()
    manifest["flags"] = {"dataset": info.name, "method": "afd"}
    manifest["license"] = "CC-BY-4.0"
    manifest["checkpoint"] |= {
        "class_examples": [3] * 99 + [0],
        "class_accuracy": [1 / 3, 0.0, *[1.0] * 96, 2 / 3, None],
        "most_confused": [[98, 99, 7]],
    }
    manifest["formats"]["tflite"] = {"refused": True, "reason": "tflite loses a lot"}
    card = model_card(manifest)
    assert "/home" not in card
    assert " on my photos\n" in card
    assert "| license of the network | CC-BY-4.0 |" in card
    assert "The 5 worst and the 5 best of 100:" in card
    assert card.count("| 3 |") == 10
    assert "| class 1 | 0.0% | 3 |\n| class 0 | 33.3% | 3 |" in card
    assert "a\\|b\\\\n\\[c] taken for \\*d\\* (7)" in card
    assert "Left out: tflite loses a lot." in card
    assert "Interpreter" not in card
    assert "--dataset=my photos" in card
