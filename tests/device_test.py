"""The programs of examples/device, in environments without TensorFlow."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.data.image_files import read_image
from tests import clean_packages, exports, tiny

EXAMPLE = Path(__file__).parents[1] / "examples" / "device"
SIZE = 32
ORIENTATION = 0x0112
# path: 0.1234 one class  0.0567 another  (1.2 ms)
LINE = re.compile(r"(?P<path>.*\.\w+): (?P<answer>.*?)(?:  \(\d+\.\d ms\))?")
ANSWER = re.compile(r"(0\.\d{4}|1\.0000) (class \d)(?:  |$)")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Files of two photographs: turned, transparent, oblong, grey, small."""
    folder = tmp_path_factory.mktemp("photos")
    china, flower = map(Image.fromarray, datasets.load_sample_images().images)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    china.save(folder / "turned.jpg", exif=exif)
    flower.save(folder / "flower.jpg")
    china.convert("L").save(folder / "grey.png")
    fading = Image.fromarray(np.linspace(0, 255, 427 * 640).reshape(427, 640).round())
    flower.putalpha(fading.convert("L"))
    flower.save(folder / "fading.png")
    for number in range(6):
        left = 60 * number
        part = china.crop((left, 10 * number, left + 200, 10 * number + 150))
        part.save(folder / f"part_{number}.png")
    return sorted(map(str, folder.iterdir()))


def pixels(paths, channels) -> np.ndarray:
    return np.stack(
        [read_image(path, channels=channels, image_size=SIZE) for path in paths]
    )


def exported(photos, channels, formats, folder) -> Path:
    """A network whose answers to the photos differ."""
    info = tiny.info((SIZE, SIZE, channels), classes=8)
    peer = exports.random_peer("resnet8", info)
    exports.tell_apart(peer, pixels(photos, channels))
    _, directory = exports.export(
        peer, exports.SomeImages(info), folder, formats, max_accuracy_drop=1.0
    )
    return directory


@pytest.fixture(scope="module")
def colour(photos, tmp_path_factory) -> Path:
    formats = ["tflite", "tflite_int8"]
    return exported(photos, 3, formats, tmp_path_factory.mktemp("colour"))


def answers(printed: str) -> dict[str, list[tuple[str, str]]]:
    """Returns [(probability, class), ...] by path."""
    matches = [LINE.fullmatch(line) for line in printed.splitlines()]
    return {each["path"]: ANSWER.findall(each["answer"]) for each in matches}


def test_the_program_is_short():
    assert len((EXAMPLE / "classify.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", ["model.tflite", "model_int8.tflite", "grey"])
def test_answers_are_those_of_predict(name, photos, colour, tmp_path):
    packages = clean_packages.installed("litert", "ai-edge-litert", "numpy", "pillow")
    if name == "grey":
        model = exported(photos, 1, ["tflite"], tmp_path) / "model.tflite"
    else:
        model = colour / name
    printed = clean_packages.run(
        packages, EXAMPLE / "classify.py", str(model), *photos, "--top_k=8"
    )
    assert re.search(r"\(\d+\.\d ms\)$", printed.splitlines()[0])
    found = answers(printed)
    classifier = load_classifier(model)
    expected = classifier.predict(pixels(photos, classifier.image_shape[2]))
    assert len(set(expected.argmax(axis=-1))) > 2
    assert list(found) == photos
    for path, probabilities in zip(photos, expected, strict=True):
        scores = [float(score) for score, _ in found[path]]
        named = [classifier.class_names.index(title) for _, title in found[path]]
        assert sorted(named) == list(range(8)), path
        assert scores == sorted(scores, reverse=True), path
        # As they are printed.
        np.testing.assert_allclose(scores, probabilities[named], atol=6e-5)


def test_mediapipe_sees_the_centre_of_an_image(colour, tmp_path):
    packages = clean_packages.installed("mediapipe", "mediapipe>=1.0,<2")
    model = colour / "model.tflite"
    # Their centres need no resizing, for which MediaPipe has another filter.
    photo = Image.fromarray(datasets.load_sample_images().images[0])
    paths = []
    for number in range(8):
        size = (SIZE, SIZE + 16) if number % 2 else (SIZE + 16, SIZE)
        left, top = 70 * number, 40 * number
        paths.append(str(tmp_path / f"{number}.png"))
        photo.crop((left, top, left + size[0], top + size[1])).save(paths[-1])
    printed = clean_packages.run(
        packages, EXAMPLE / "mediapipe_classify.py", str(model), *paths
    )
    found = answers(printed)
    assert list(found) == paths
    classifier = load_classifier(model)
    expected = classifier.predict(pixels(paths, 3))
    for path, probabilities in zip(paths, expected, strict=True):
        scores = [float(score) for score, _ in found[path]]
        named = [classifier.class_names.index(title) for _, title in found[path]]
        assert len(set(named)) == 5, path
        np.testing.assert_allclose(scores, np.sort(probabilities)[::-1][:5], atol=6e-5)
        np.testing.assert_allclose(scores, probabilities[named], atol=6e-5)
