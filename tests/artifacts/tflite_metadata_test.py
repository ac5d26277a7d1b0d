"""Metadata of .tflite files, as the real MediaPipe Tasks read them."""

import dataclasses
import hashlib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from sklearn import datasets

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.tflite_metadata import METADATA
from tests import clean_packages, exports, tiny

CLIENT = Path(__file__).with_name("mediapipe_client.py")
FORMATS = ("tflite", "tflite_fp16", "tflite_int8")
SIZE = 32
CLASS_NAMES = ("Katze", "Hündin", "a b", "", "line\nbreak", "猫", "g", "h")


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """Fifty parts of two photographs, uint8 [50, h, w, 3]."""
    generator = np.random.default_rng(0)
    images = []
    for number in range(50):
        photo = Image.fromarray(datasets.load_sample_images().images[number % 2])
        side = int(generator.integers(SIZE, 400))
        left, top = (int(generator.integers(0, n - side)) for n in photo.size)
        part = photo.crop((left, top, left + side, top + side))
        images.append(np.asarray(part.resize((SIZE, SIZE))))
    return np.stack(images)


@pytest.fixture(scope="module")
def version(photos, tmp_path_factory) -> Path:
    """A network whose answers to the photos differ."""
    info = tiny.info((SIZE, SIZE, 3), classes=len(CLASS_NAMES))
    info = dataclasses.replace(info, class_names=CLASS_NAMES)
    peer = exports.random_peer("resnet8", info)
    exports.tell_apart(peer, photos)
    dataset = exports.SomeImages(info)
    dataset.images = photos
    _, directory = exports.export(
        peer,
        dataset,
        tmp_path_factory.mktemp("colour"),
        FORMATS,
        max_accuracy_drop=1.0,
        model_license="CC-BY-4.0",
    )
    return directory


def file_of(directory: Path, name: str) -> Path:
    manifest = json.loads((directory / "manifest.json").read_text())
    return directory / manifest["formats"][name]["path"]


@pytest.fixture(scope="module")
def understood(version, photos, tmp_path_factory) -> dict:
    """What MediaPipe reads in each file, and what it answers."""
    images = tmp_path_factory.mktemp("photos") / "photos.npy"
    np.save(images, photos)
    models = ",".join(str(file_of(version, name)) for name in FORMATS)
    packages = clean_packages.installed("mediapipe", "mediapipe>=1.0,<2")
    printed = clean_packages.run(packages, CLIENT, models, str(images))
    return dict(zip(FORMATS, json.loads(printed), strict=True))


@pytest.mark.parametrize("name", FORMATS)
def test_mediapipe_answers_as_predict(name, version, photos, understood):
    classifier = load_classifier(file_of(version, name))
    probabilities = classifier.predict(photos)
    # That a network which always answers the same does not pass.
    assert len(set(probabilities.argmax(axis=-1))) > 4
    labels = (version / "labels.txt").read_text().splitlines()
    answers = understood[name]["answers"]
    for expected, answer in zip(probabilities, answers, strict=True):
        assert answer.keys() == {"probability"}
        found, scores = zip(*answer["probability"], strict=True)
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:5], atol=1e-5)
        # By name, as two classes may be equally probable in 8 bits.
        own = [expected[labels.index(each)] for each in found]
        np.testing.assert_allclose(own, scores, atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_mediapipe_reads_every_field(name, version, understood):
    found = understood[name]["metadata"]
    assert found["name"] == "resnet8"
    assert found["license"] == "CC-BY-4.0"
    assert "8 classes of tiny" in found["description"]
    assert re.fullmatch("[0-9a-f]{12}", found["version"])
    (graph,) = found["subgraphMetadata"]
    (image,) = graph["inputTensorMetadata"]
    assert image["content"]["contentProperties"] == {
        "colorSpace": 1,
        "defaultSize": {"width": SIZE, "height": SIZE},
    }
    (unit,) = image["processUnits"]
    assert unit["options"] == {"mean": [0.0], "std": [1.0]}
    (head,) = graph["outputTensorMetadata"]
    assert head["name"] == "probability"
    assert "processUnits" not in head
    (labels,) = head["associatedFiles"]
    assert (labels["name"], labels["type"]) == ("labels.txt", 2)


@pytest.mark.parametrize("name", FORMATS)
def test_class_names_are_behind_the_model_as_they_are(name, version):
    path = file_of(version, name)
    content = path.read_bytes()
    labels = (version / "labels.txt").read_bytes()
    with zipfile.ZipFile(path) as archive:
        (entry, _) = archive.infolist()
        assert entry.filename == "labels.txt"
        assert entry.compress_type == zipfile.ZIP_STORED
        # Places count from the beginning of the file: behind the entry's head of 30
        # bytes and its name, there are the class names.
        start = entry.header_offset + 30 + len("labels.txt")
        assert content[start : start + len(labels)] == labels
        inside = json.loads(archive.read("manifest.json"))
    assert inside["license"] == "CC-BY-4.0"
    network = content[: inside["model"]["bytes"]]
    assert hashlib.sha256(network).hexdigest() == inside["model"]["sha256"]


def test_metadata_of_grey_images_and_of_two_outputs(digits, tmp_path):
    peer = exports.random_peer("resnet8", digits.info)
    _, directory = exports.export(
        peer,
        exports.OneImage(digits.info),
        tmp_path,
        ["tflite"],
        tflite_logits=True,
        tflite_batch_size=3,
    )
    path = directory / "model.tflite"
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    (entry,) = [each for each in model.metadata if each.name == METADATA.encode()]
    content = bytes(model.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    assert b"8 x 8, grey" in content
    assert content.index(b"probability\0") and content.index(b"logit\0")
    signature = Interpreter(str(path)).get_signature_runner("serving_default")
    outputs = signature.get_output_details()
    assert outputs.keys() == {"logits", "probabilities"}
    # The first output is the one that most clients look at.
    assert model.subgraphs[0].outputs[0] == outputs["probabilities"]["index"]
    # Seven images in batches of three, of which the last is filled up.
    images = exports.random_images((8, 8, 1), 7)
    classifier = load_classifier(path)
    exports.assert_same_logits(
        classifier.logits(images), exports.logits_of(peer, images)
    )
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["formats"]["tflite"]["batch_size"] == 3
    answer = signature(image=images[:3])
    powers = np.exp(np.float64(answer["logits"]))
    np.testing.assert_allclose(
        answer["probabilities"], powers / powers.sum(axis=-1, keepdims=True), atol=1e-6
    )
