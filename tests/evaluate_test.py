import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf import data, evaluate
from afd_tf.artifacts.manifest import FORMATS
from afd_tf.base.errors import UserError
from tests import exports


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load("digits", cache_dir=str(tmp_path_factory.mktemp("cache")))


def run_main(capsys, *arguments):
    """Returns the object that evaluate prints."""
    with flagsaver.flagsaver():
        flags.FLAGS(["evaluate", *arguments])
        evaluate.main(["evaluate"])
    return json.loads(capsys.readouterr().out)


def test_run_directory_by_hand(digits, tmp_path, capsys):
    directory = tmp_path / "run"
    peers = exports.write_run(directory, digits.info)
    batches = digits.evaluation_batches("test", batch_size=360)
    batch = next(batches.as_numpy_iterator())
    # [peers, examples, classes]
    logits = np.float64([exports.logits_of(peer, batch["image"]) for peer in peers])
    accuracies = np.mean(np.argmax(logits, axis=-1) == batch["label"], axis=-1)
    powers = np.exp(logits)
    mean = np.mean(powers / powers.sum(axis=-1, keepdims=True), axis=0)
    expected = {
        "artifact": str(directory),
        "format": "checkpoint",
        "name": "wrn_10_1",
        "dataset": "digits",
        "split": "test",
        "examples": 360,
        "accuracy": accuracies[1],
        "peers": [
            {"name": "resnet8", "accuracy": accuracies[0]},
            {"name": "wrn_10_1", "accuracy": accuracies[1]},
        ],
        "mean_accuracy": pytest.approx(np.mean(accuracies)),
        "ensemble_accuracy": np.mean(np.argmax(mean, axis=-1) == batch["label"]),
    }
    cache = f"--cache_dir={tmp_path / 'cache'}"
    assert run_main(capsys, f"--artifact={directory}", cache) == expected
    expected |= {"name": "resnet8", "accuracy": accuracies[0]}
    actual = run_main(capsys, f"--artifact={directory}", cache, "--peer=0")
    assert actual == expected


def test_artifact_of_enlarged_images(tmp_path, capsys):
    """The images' size is nowhere but in the flags of the run."""
    cache = str(tmp_path / "cache")
    dataset = data.load("digits", image_size=12, cache_dir=cache)
    peer = exports.random_peer("resnet8", dataset.info)
    run_flags = {**exports.RUN_FLAGS, "image_size": "12"}
    answer, directory = exports.export(
        peer, dataset, tmp_path / "x", ["tflite"], run_flags
    )
    path = directory / "model.tflite"
    assert run_main(capsys, f"--artifact={path}", f"--cache_dir={cache}") == {
        "artifact": str(path),
        "format": "tflite",
        "name": "resnet8",
        "dataset": "digits",
        "split": "test",
        "examples": 360,
        "accuracy": answer["formats"]["tflite"]["accuracy"],
    }


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_accuracy_of_its_manifest(
    deployed, name, tmp_path, capsys
):
    _, answer, directory = deployed
    path = directory / FORMATS[name].path
    cache = f"--cache_dir={tmp_path / 'cache'}"
    assert run_main(capsys, f"--artifact={path}", cache) == {
        "artifact": str(path),
        "format": name,
        "name": "wrn_10_1",
        "dataset": "digits",
        "split": "test",
        "examples": 360,
        "accuracy": answer["formats"][name]["accuracy"],
    }


@pytest.mark.parametrize(
    ("extra", "message"),
    [([], "--artifact=runs/digits"), (["--artifact=x", "y"], "'y' is not a flag")],
)
def test_artifact_must_be_given(extra, message):
    with flagsaver.flagsaver():
        left = flags.FLAGS(["evaluate", *extra])
        with pytest.raises(UserError, match=message):
            evaluate.main(left)
