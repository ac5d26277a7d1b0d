"""A .keras file for those who have no afd_tf, and files that would run code."""

import hashlib
import json
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.base.errors import UserError
from tests import exports

# Opens the file, and trains on with another classifier on the map.
PROGRAM = """
import sys
import keras, numpy
model = keras.saving.load_model("model.keras")
images = numpy.load("images.npy")
numpy.save("probabilities.npy", model.predict(images, verbose=0))
features = model.get_layer("features").output
pooled = keras.layers.GlobalAveragePooling2D()(features)
another = keras.Model(model.input, keras.layers.Dense(3)(pooled))
another.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
statistics = model.get_layer("bn_1").moving_mean.numpy()
kernel = model.get_layer("conv_1").kernel.numpy()
another.fit(images, numpy.arange(len(images)) % 3, verbose=0)
assert abs(model.get_layer("bn_1").moving_mean.numpy() - statistics).max() > 0
assert abs(model.get_layer("conv_1").kernel.numpy() - kernel).max() > 0
assert not [name for name in sys.modules if name.startswith("afd_tf")]
"""


def test_plain_keras_opens_it_and_trains_on(deployed, tmp_path):
    peer, answer, directory = deployed
    (tmp_path / "model.keras").write_bytes((directory / "model.keras").read_bytes())
    images = exports.random_images((8, 8, 1), 6)
    np.save(tmp_path / "images.npy", images)
    result = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    logits = np.float64(exports.logits_of(peer, images))
    powers = np.exp(logits)
    np.testing.assert_allclose(
        np.load(tmp_path / "probabilities.npy"),
        powers / powers.sum(axis=-1, keepdims=True),
        atol=1e-5,
    )
    entry = answer["formats"]["keras"]
    assert entry["layers"] == {"features": "features", "logits": "classifier"}
    with zipfile.ZipFile(directory / "model.keras") as archive:
        assert archive.read("labels.txt") == (directory / "labels.txt").read_bytes()
        assert "flags" not in json.loads(archive.read("manifest.json"))


def rewritten(source, target, change) -> None:
    """Writes a .keras file with another configuration, whose checksums are right."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(entries["config.json"])
    change(config)
    entries["config.json"] = json.dumps(config).encode()
    manifest = json.loads(entries["manifest.json"])
    manifest["model"]["config.json"] = hashlib.sha256(
        entries["config.json"]
    ).hexdigest()
    entries["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def lambda_layer(mark) -> dict:
    """The configuration of a layer that makes a file when it is called or opened."""
    mark = str(mark)
    layer = keras.layers.Lambda(lambda x: pathlib.Path(mark).touch() or x)
    return keras.saving.serialize_keras_object(layer)


HOSTILE = {
    "Lambda": lambda_layer,
    "Popen": lambda mark: {
        "module": "subprocess",
        "class_name": "Popen",
        "config": {"args": ["touch", str(mark)]},
    },
    "system": lambda mark: {
        "module": "os",
        "class_name": "function",
        "config": "system",
    },
    "TFSMLayer": lambda mark: {
        "module": "keras.layers",
        "class_name": "TFSMLayer",
        "config": {"filepath": str(mark.parent)},
    },
    "Mine": lambda mark: {"module": "mine", "class_name": "Mine", "config": {}},
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["a layer", "within a layer"])
def test_code_in_a_file_is_never_run(deployed, tmp_path, name, place):
    mark = tmp_path / "mark"
    hostile = HOSTILE[name](mark)

    def change(config):
        if place == "a layer":
            config["config"]["layers"][3] |= hostile
        else:
            config["config"]["layers"][3]["config"]["kernel_initializer"] = hostile

    path = tmp_path / "model.keras"
    rewritten(deployed[2] / "model.keras", path, change)
    with pytest.raises(UserError, match="may run code: it was not opened") as error:
        load_classifier(path)
    assert "\n" not in str(error.value)
    assert not mark.exists()


def test_a_file_that_was_written_again_still_opens(deployed, tmp_path):
    """So that the tests above are refused for their code alone."""
    path = tmp_path / "model.keras"
    rewritten(deployed[2] / "model.keras", path, lambda config: None)
    images = exports.random_images((8, 8, 1), 3)
    np.testing.assert_array_equal(
        load_classifier(path).logits(images),
        load_classifier(deployed[2] / "model.keras").logits(images),
    )


def test_a_model_of_another_program_is_refused(tmp_path):
    inputs = keras.Input((8, 8, 1))
    path = tmp_path / "model.keras"
    keras.Model(inputs, keras.layers.Flatten()(inputs)).save(path)
    with pytest.raises(UserError, match="a Keras model of another program") as error:
        load_classifier(path)
    assert "\n" not in str(error.value)
