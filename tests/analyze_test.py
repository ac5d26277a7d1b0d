"""The whole of analyze on small runs, against NumPy on the outputs of their peers."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from matplotlib.figure import Figure
from PIL import Image

from afd_tf import analyze
from afd_tf.analysis import figures, grad_cam, similarity
from afd_tf.base.errors import UserError
from afd_tf.distill.methods.independent import Independent
from afd_tf.training.checkpoints import Checkpoints
from afd_tf.training.run_directory import RunDirectory
from tests import exports

KEY = "train/peer_1/discriminator_accuracy"


@pytest.fixture
def run_analyze(capsys, tmp_path):
    def run(run_dir, *arguments):
        """Returns the object on the last line that analyze prints."""
        with flagsaver.flagsaver():
            common = f"--run_dir={run_dir}", f"--cache_dir={tmp_path}/cache"
            flags.FLAGS(["analyze", *common, *arguments])
            analyze.main(["analyze"])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


@pytest.fixture
def panel(monkeypatch):
    """The arguments of the last panel."""
    seen = {}
    draw = figures.grad_cam_figure

    def note(images, **kwargs):
        seen.update(kwargs, images=images)
        return draw(images, **kwargs)

    monkeypatch.setattr(figures, "grad_cam_figure", note)
    return seen


def write_run(directory, info, *names):
    """Writes a run as `exports.write_run` does, of any peers."""
    RunDirectory(directory, {**exports.RUN_FLAGS, "peers": ",".join(names)}).initialize(
        info
    )
    peers = [exports.random_peer(name, info, 7) for name in names]
    method = Independent(peers)
    method.compile(epochs=1, steps_per_epoch=1)
    Checkpoints(directory, method).save({"step": 1})
    return peers


def whole_split(digits):
    batches = digits.evaluation_batches("test", batch_size=360)
    return next(batches.as_numpy_iterator())


def flat_features(peer, images):
    maps = peer(images, training=False).features.numpy().astype(np.float64)
    return maps.reshape(len(maps), -1)


def hsic(first, second):
    """HSIC_1 as a mean over images that all differ, for centred linear kernels."""
    count = len(first)
    kernels = [values @ values.T for values in (first, second)]
    for kernel in kernels:
        np.fill_diagonal(kernel, 0)
    rows = [kernel.sum(axis=1) for kernel in kernels]
    both = np.sum(kernels[0] * kernels[1])
    return (
        both
        + rows[0].sum() * rows[1].sum() / (count - 1) / (count - 2)
        - 2 * rows[0] @ rows[1] / (count - 2)
    ) / (count * (count - 3))


def cka(digits, first, second, seed):
    sums = np.zeros(3)
    batches = similarity.shuffled_batches(digits, seed)
    for images in (batch["image"] for batch in batches.as_numpy_iterator()):
        a, b = flat_features(first, images), flat_features(second, images)
        sums += len(images) * np.array([hsic(a, b), hsic(a, a), hsic(b, b)])
    return sums[0] / math.sqrt(sums[1] * sums[2])


def assert_images(paths):
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            pixels = np.asarray(image.convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_all_that_a_run_has(digits, tmp_path, run_analyze, panel):
    run_dir = tmp_path / "run"
    peers = exports.write_run(run_dir, digits.info)
    metrics = [
        {"epoch": 1, KEY: 0.75, f"{KEY}_real": 0.5, f"{KEY}_fake": 1.0},
        {"epoch": 2, KEY: 1.0, f"{KEY}_real": 1.0, f"{KEY}_fake": 1.0},
    ]
    lines = [json.dumps(line) + "\n" for line in metrics]
    # The last line is cut off.
    (run_dir / "metrics.jsonl").write_text("".join(lines) + '{"epoch": 3, "st')
    result = run_analyze(run_dir, "--seed=3")

    directory = run_dir / "analysis"
    written = [
        "similarity.json",
        "similarity.png",
        "gradcam.png",
        "discriminators.json",
        "discriminators.png",
    ]
    assert result["files"] == [str(directory / name) for name in written]
    assert sorted(path.name for path in directory.iterdir()) == sorted(written)
    assert_images(directory.glob("*.png"))
    assert list(result) == [
        "run_dir",
        "output_dir",
        "split",
        "examples",
        "similarity",
        "discriminators",
        "files",
    ]
    assert result["run_dir"] == str(run_dir)
    assert result["output_dir"] == str(directory)
    assert (result["split"], result["examples"]) == ("test", 360)

    batch = whole_split(digits)
    first, second = (flat_features(peer, batch["image"]) for peer in peers)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    expected = {
        "l1_mean_absolute_difference": np.mean(np.abs(first - second)),
        "l2_mean_squared_difference": np.mean((first - second) ** 2),
        "cosine": np.mean(np.sum(first * second, axis=1) / lengths),
        "cka": cka(digits, *peers, seed=3),
    }
    similarity = json.loads((directory / "similarity.json").read_text())
    assert similarity["pairs"] == result["similarity"]
    (pair,) = result["similarity"]
    assert pair.pop("networks") == ["resnet8", "wrn_10_1"]
    assert pair.pop("note") is None
    assert pair == pytest.approx(expected, rel=1e-4)
    # Batches drawn at random give nearly the CKA of the whole.
    lengths = hsic(first, first) * hsic(second, second)
    assert pair["cka"] == pytest.approx(
        hsic(first, second) / math.sqrt(lengths), abs=0.02
    )
    assert similarity["networks"][1] == {
        "name": "wrn_10_1",
        "run_dir": str(run_dir),
        "peer": 1,
        "feature_shape": [2, 2, 64],
    }
    assert similarity["measures"].keys() == pair.keys()

    (health,) = result["discriminators"]
    assert (health["peer"], health["name"]) == ("peer_1", "wrn_10_1")
    assert health["state"] == "collapsed" and "epochs" not in health
    (stored,) = json.loads((directory / "discriminators.json").read_text())["peers"]
    assert stored == {
        **health,
        "epochs": [1, 2],
        "accuracy": [0.75, 1.0],
        "real": [0.5, 1.0],
        "fake": [1.0, 1.0],
    }

    test_images = {
        image.tobytes(): label
        for image, label in zip(batch["image"], batch["label"], strict=True)
    }
    images = panel["images"]
    assert len({image.tobytes() for image in images}) == len(images) == 8
    labels = [test_images[image.tobytes()] for image in images]
    assert panel["labels"] == labels
    assert panel["titles"] == [str(label) for label in labels]
    for peer, seen in zip(peers, panel["results"].values(), strict=True):
        np.testing.assert_array_equal(
            seen.predicted, np.argmax(exports.logits_of(peer, images), axis=-1)
        )


def test_runs_side_by_side(digits, run_dir, tmp_path, run_analyze, panel):
    directory, peers = run_dir
    (wide,) = write_run(tmp_path / "wide", digits.info, "wrn_10_2")
    twins = tmp_path / "digits"  # the name of the first run
    shutil.copytree(directory, twins)
    result = run_analyze(
        directory,
        f"--other_runs={tmp_path / 'wide'},{twins}",
        f"--output_dir={tmp_path / 'new' / 'out'}",
        "--classes=3,7",
        "--images=3",
        "--gradcam_class=label",
    )
    names = [f"{directory}/resnet8", f"{directory}/wrn_10_1"]
    names += [f"{tmp_path}/wide/wrn_10_2", f"{twins}/resnet8", f"{twins}/wrn_10_1"]
    pairs = {tuple(pair["networks"]): pair for pair in result["similarity"]}
    assert len(pairs) == 10
    copy = pairs[names[1], names[4]]
    assert copy["l1_mean_absolute_difference"] == 0
    assert copy["cosine"] == pytest.approx(1)
    assert copy["cka"] == pytest.approx(1)
    unequal = pairs[names[0], names[2]]
    assert unequal["cosine"] is None
    assert "2x2x64 and 2x2x128" in unequal["note"]
    assert unequal["cka"] == pytest.approx(cka(digits, peers[0], wide, 0), rel=1e-4)
    # There is no metrics.jsonl.
    assert result["discriminators"] is None
    output_dir = tmp_path / "new" / "out"
    assert sorted(path.name for path in output_dir.iterdir()) == [
        "gradcam.png",
        "similarity.json",
        "similarity.png",
    ]
    assert_images(output_dir.glob("*.png"))
    assert not (directory / "analysis").exists()

    assert panel["titles"] == ["3", "3", "7"]
    assert list(panel["results"]) == names
    expected = grad_cam.grad_cam(peers[1], panel["images"], [3, 3, 7])
    np.testing.assert_allclose(
        panel["results"][names[1]].maps, expected.maps, atol=1e-4
    )
    assert panel["explained"] == "true class"


def test_one_peer_and_files(digits, tmp_path, run_analyze, panel):
    run_dir = tmp_path / "alone"
    write_run(run_dir, digits.info, "resnet8")
    pixels = exports.random_images((24, 16), 1)[0]
    Image.fromarray(pixels).save(tmp_path / "a $1.png")
    Image.fromarray(exports.random_images((8, 8, 3), 1)[0]).save(tmp_path / "b.png")
    result = run_analyze(run_dir, f"--files={tmp_path}/a $1.png,{tmp_path}/b.png")
    assert result["files"] == [str(run_dir / "analysis" / "gradcam.png")]
    assert result["similarity"] == []
    assert_images(result["files"])
    assert panel["titles"] == ["a $1.png", "b.png"]
    assert panel["labels"] is None
    middle = Image.fromarray(pixels[4:20]).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(panel["images"][0][..., 0], np.asarray(middle))
    assert panel["images"].shape == (2, 8, 8, 1)


def test_twins_and_fewer_images_than_asked(digits, tmp_path, run_analyze, monkeypatch):
    run_dir = tmp_path / "twins"
    write_run(run_dir, digits.info, "resnet8", "resnet8")
    shown = []

    def note(images, **_):
        shown.extend(images)
        return Figure()  # to draw so many takes a while

    monkeypatch.setattr(figures, "grad_cam_figure", note)
    result = run_analyze(run_dir, "--classes=9", "--images=100")
    (pair,) = result["similarity"]
    assert pair["networks"] == ["resnet8 (peer_0)", "resnet8 (peer_1)"]
    # All that there are.
    assert len(shown) == np.sum(whole_split(digits)["label"] == 9) < 100


@pytest.fixture(scope="module")
def other_runs(digits, tmp_path_factory):
    """Runs that do not go with `run_dir`."""
    directory = tmp_path_factory.mktemp("others")
    changes = {
        "large": {"image_shape": (12, 12, 1)},
        "renamed": {"class_names": tuple("abcdefghij")},
        "fewer": {"class_names": tuple("01234567")},
    }
    for name, change in changes.items():
        write_run(
            directory / name, dataclasses.replace(digits.info, **change), "resnet8"
        )
    return {name: directory / name for name in changes}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--other_runs=nowhere"], "nowhere is no run directory"),
        (["--other_runs={run}/../digits"], "given twice"),
        (["--other_runs={large}"], "images of .* Give --other_runs of the same"),
        (["--other_runs={renamed}"], "classes of other names"),
        (["--other_runs={fewer}"], "other classes .8, not 10."),
        (["--classes=3,zebra"], "unknown class 'zebra'"),
        (["--classes=3,4,5", "--images=2"], "at least 3"),
        (["--classes=3", "--files={run}/flags.cfg"], "give one of the two"),
        (["--gradcam_class=label", "--files=a.png"], "--gradcam_class=label is for"),
        (["--files=missing.png"], "missing.png does not exist"),
        (["--files=" + ",".join(101 * ["a.png"])], "at most 100"),
        (["--checkpoint=best"], "no best checkpoint"),
        (["--checkpoint=bets"], "unknown checkpoint 'bets'"),
        (["--dataset=nowhere"], "nowhere"),
        (["--output_dir={run}/flags.cfg"], "cannot write to"),
    ],
)
def test_mistakes(arguments, message, run_dir, other_runs, run_analyze):
    directory, _ = run_dir
    before = sorted(directory.rglob("*"))
    with pytest.raises(UserError, match=message) as error:
        run_analyze(
            directory, *(text.format(run=directory, **other_runs) for text in arguments)
        )
    assert "\n" not in str(error.value)
    assert sorted(directory.rglob("*")) == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [([], "--run_dir=runs/digits"), (["--run_dir=x", "y"], "'y' is not a flag")],
)
def test_run_dir_must_be_given(extra, message):
    with flagsaver.flagsaver():
        left = flags.FLAGS(["analyze", *extra])
        with pytest.raises(UserError, match=message):
            analyze.main(left)
