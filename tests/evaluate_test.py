import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image
from sklearn import metrics

from afd_tf import data, evaluate
from afd_tf.analysis.confusion import Confusion
from afd_tf.artifacts.classifier import Classifier, load_classifier
from afd_tf.artifacts.manifest import FORMATS
from afd_tf.artifacts.networks import ClassifierNetwork
from afd_tf.base.errors import UserError
from tests import exports


def run_main(capsys, *arguments):
    """Returns the object that evaluate prints, and what it says on stderr."""
    with flagsaver.flagsaver():
        flags.FLAGS(["evaluate", *arguments])
        evaluate.main(["evaluate"])
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def rates(labels, predicted):
    """All that evaluate prints of a network, as scikit-learn computes it."""
    classes = range(10)
    precision, recall, *_ = metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    return {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": pytest.approx(np.mean(recall)),
        "class_accuracy": pytest.approx(recall.tolist()),
        "class_precision": [
            None if np.isnan(value) else pytest.approx(value) for value in precision
        ],
        "confusion": metrics.confusion_matrix(
            labels, predicted, labels=classes
        ).tolist(),
    }


def subject(artifact, format_name, name):
    return {
        "artifact": str(artifact),
        "format": format_name,
        "name": name,
        "dataset": "digits",
        "split": "test",
        "examples": 360,
    }


@pytest.fixture(scope="module")
def batch(digits):
    """All test images."""
    return next(digits.evaluation_batches("test", batch_size=360).as_numpy_iterator())


@pytest.fixture(scope="module")
def by_hand(batch, run_dir):
    """The labels, and the predictions of the run's peers and of their ensemble."""
    _, peers = run_dir
    # [peers, examples, classes]
    logits = np.float64([exports.logits_of(peer, batch["image"]) for peer in peers])
    powers = np.exp(logits)
    mean = np.mean(powers / powers.sum(axis=-1, keepdims=True), axis=0)
    return batch["label"], np.argmax([*logits, mean], axis=-1)


def test_run_directory_by_hand(by_hand, run_dir, tmp_path, capsys):
    directory, _ = run_dir
    labels, predicted = by_hand
    first, second, ensemble = (rates(labels, each) for each in predicted)
    accuracies = [each["accuracy"] for each in (first, second)]
    balanced = [metrics.balanced_accuracy_score(labels, each) for each in predicted]
    expected = {
        **subject(directory, "checkpoint", "wrn_10_1"),
        **second,
        "class_names": [str(digit) for digit in range(10)],
        "class_examples": np.bincount(labels).tolist(),
        "peers": [{"name": "resnet8", **first}, {"name": "wrn_10_1", **second}],
        "mean_accuracy": pytest.approx(np.mean(accuracies)),
        "mean_balanced_accuracy": pytest.approx(np.mean(balanced[:2])),
        "ensemble_accuracy": ensemble["accuracy"],
        "ensemble_balanced_accuracy": pytest.approx(balanced[2]),
        "ensemble": ensemble,
        "files": [],
    }
    cache = f"--cache_dir={tmp_path / 'cache'}"
    found, said = run_main(capsys, f"--artifact={directory}", cache)
    assert found == expected
    lines = said.splitlines()
    start = next(n for n, line in enumerate(lines) if "360 test images" in line)
    assert lines[start + 1 : start + 4] == [
        f"  {name:8}  {accuracy:.2%}, balanced {share:.2%}"
        for name, accuracy, share in zip(
            ("resnet8", "wrn_10_1", "ensemble"),
            (*accuracies, ensemble["accuracy"]),
            balanced,
            strict=True,
        )
    ]
    matrix = np.array(second["confusion"])
    found = np.diag(matrix) / matrix.sum(axis=1)
    # Of classes that are found equally seldom, the one of the most images.
    worst = min(range(10), key=lambda k: (found[k], -matrix[k].sum(), k))
    assert f"worst classes of wrn_10_1: {worst} {found[worst]:.1%}" in lines[start + 4]
    wrong = matrix * (1 - np.eye(10, dtype=int))
    true, taken = np.unravel_index(np.argmax(wrong), wrong.shape)
    mistake = f"mistakes of wrn_10_1: {true} taken for {taken} {wrong.max()};"
    assert mistake in lines[start + 5]


def test_files_of_the_confusion_matrix(by_hand, run_dir, tmp_path, capsys):
    directory, _ = run_dir
    labels, predicted = by_hand
    numbers, figure = tmp_path / "matrix.json", tmp_path / "matrix.PNG"
    found, _ = run_main(
        capsys,
        f"--artifact={directory}",
        f"--cache_dir={tmp_path / 'cache'}",
        "--peer=0",
        f"--confusion={numbers}",
        f"--figure={figure}",
    )
    first = rates(labels, predicted[0])
    assert {name: found[name] for name in first} == first
    assert found["files"] == [str(numbers), str(figure)]
    assert json.loads(numbers.read_text()) == {
        **subject(directory, "checkpoint", "resnet8"),
        "class_names": found["class_names"],
        "class_examples": found["class_examples"],
        "networks": [
            {"name": name, **rates(labels, each)}
            for name, each in zip(
                ("resnet8", "wrn_10_1", "ensemble"), predicted, strict=True
            )
        ],
    }
    with Image.open(figure) as image:
        assert image.format == "PNG"
        assert min(image.size) > 700
        # The cells, in many shades of blue.
        assert len(np.unique(np.asarray(image.convert("RGB"))[..., 0])) > 50
    assert not list(tmp_path.glob("*.unfinished"))


def test_many_classes_have_no_matrix_on_stdout(monkeypatch):
    network = Confusion(np.arange(26), np.arange(26), 26)
    assert evaluate.as_json(network)["confusion"] is None
    assert len(evaluate.as_json(network)["class_accuracy"]) == 26
    with pytest.raises(UserError, match="2,001 classes is too large"):
        evaluate.check_number_of_classes(2001)
    evaluate.check_number_of_classes(2000)


def test_report_of_few_classes():
    one = {"x": Confusion(np.zeros(7, int), np.zeros(7, int), 1)}
    (line,) = evaluate.report(one, "x", ["a"])
    assert "7 test images of one class" in line
    labels = np.array([0, 0, 1])
    networks = {"x": Confusion(labels, labels, 3)}
    lines = evaluate.report(networks, "x", ["a", "b\n", "c"])
    assert lines[1:] == [
        "  x  100.00%, balanced 100.00%",
        "classes without test images, which count nowhere: 1",
    ]
    networks = {"x": Confusion(labels, np.array([0, 1, 1]), 3)}
    lines = evaluate.report(networks, "x", ["a", "b\n", "c"])
    assert lines[2:4] == [
        "worst classes of x: a 50.0% of 2",
        r"most frequent mistakes of x: a taken for b\n 1",
    ]


def test_peers_of_one_name_are_told_apart():
    networks = [ClassifierNetwork(name, None) for name in ("a", "b", "a")]
    loaded = Classifier(Path("x"), "checkpoint", None, {}, networks)
    assert evaluate.network_names(loaded) == ["a (peer_0)", "b", "a (peer_2)"]


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
    found, _ = run_main(capsys, f"--artifact={path}", f"--cache_dir={cache}")
    expected = subject(path, "tflite", "resnet8")
    assert {name: found[name] for name in expected} == expected
    assert found["accuracy"] == answer["formats"]["tflite"]["accuracy"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_accuracy_of_its_manifest(
    deployed, batch, name, tmp_path, capsys
):
    _, answer, directory = deployed
    path = directory / FORMATS[name].path
    cache = f"--cache_dir={tmp_path / 'cache'}"
    found, _ = run_main(capsys, f"--artifact={path}", cache)
    predicted = load_classifier(path).logits(batch["image"]).argmax(axis=-1)
    assert found == {
        **subject(path, name, "wrn_10_1"),
        **rates(batch["label"], predicted),
        "class_names": [str(digit) for digit in range(10)],
        "class_examples": np.bincount(batch["label"]).tolist(),
        "files": [],
    }
    assert found["accuracy"] == answer["formats"][name]["accuracy"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--figure=x.jpg", r"has to end in \.png"),
        ("--confusion=x.png", r"has to end in \.json"),
        ("--figure=", r"has to end in \.png"),
        ("--figure=no/x.png", "create no first"),
        ("--confusion=no/x.json", "create no first"),
        ("--figure=directory.png", "name a file in it"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_loaded(
    flag, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("directory.png").mkdir()
    with flagsaver.flagsaver():
        flags.FLAGS(["evaluate", "--artifact=nothing", flag])
        with pytest.raises(UserError, match=message):
            evaluate.main(["evaluate"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [([], "--artifact=runs/digits"), (["--artifact=x", "y"], "'y' is not a flag")],
)
def test_artifact_must_be_given(extra, message):
    with flagsaver.flagsaver():
        left = flags.FLAGS(["evaluate", *extra])
        with pytest.raises(UserError, match=message):
            evaluate.main(left)


# Runs evaluate for each line of the standard input, and looks for what was imported.
WITHOUT = """
import sys
from absl import flags
from absl.testing import flagsaver
from afd_tf import evaluate
for line in sys.stdin:
    with flagsaver.flagsaver():
        flags.FLAGS(["evaluate", *line.split()])
        evaluate.main(["evaluate"])
heavy = {"tensorflow", "keras", "tensorboard", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture
def digit_files(digits, tmp_path):
    """A folder of some digits as PNG files, a table of them, and how many are tests."""
    rows, counts = ["image,label,split"], {"train": 60, "test": 80}
    for split, count in counts.items():
        images, labels = next(digits.numpy_batches(split, batch_size=count))
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = tmp_path / "files" / split / str(label) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
            rows.append(f"files/{split}/{label}/{number:04}.png,{label},{split}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return f"folder:{tmp_path}/files", f"csv:{tmp_path}/table.csv", counts["test"]


def test_files_are_measured_without_tensorflow(deployed, batch, digit_files):
    _, _, directory = deployed
    *names, count = digit_files
    runs = [
        *((name, "digits", 360) for name in ("model.tflite", "model_int8.tflite")),
        *(("model.onnx", name, count) for name in names),
        *((name, "digits", 360) for name in ("model.xml", "model_int8.xml")),
    ]
    lines = [f"--artifact={directory / run[0]} --dataset={run[1]}" for run in runs]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    for (name, dataset, size), found in zip(runs, answers, strict=True):
        # As TensorFlow reads the images.
        images, labels = batch["image"][:size], batch["label"][:size]
        predicted = load_classifier(directory / name).logits(images).argmax(axis=-1)
        assert found["dataset"] == dataset
        assert found["examples"] == size
        expected = rates(labels, predicted)
        assert {key: found[key] for key in expected} == expected
