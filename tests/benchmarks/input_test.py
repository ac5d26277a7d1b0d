"""The plain pipeline, and the measurement beside it."""

import json

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from afd_tf import benchmark
from afd_tf.base.errors import UserError
from afd_tf.benchmarks import input as input_speed
from tests.data.encoded import file_of, scene


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of few JPEG files."""
    root = tmp_path / "photos"
    for split, name in (("Training", "a"), ("Training", "b"), ("test", "a")):
        place = root / split / name
        place.mkdir(parents=True)
        for number in range(4):
            pixels = scene(90, 100, seed=number + 10 * (name == "b"))
            (place / f"{number}.jpg").write_bytes(file_of(pixels, "jpeg"))
    return root


def test_the_plain_pipeline_crops_resizes_and_mirrors():
    # On a slope to the right, each crop is one too, or, mirrored, one to the left.
    slope = np.linspace(10, 240, 120).round().astype(np.uint8)
    pixels = np.tile(slope[np.newaxis, :, np.newaxis], [80, 1, 3])
    contents = file_of(pixels, "jpeg", quality=100)
    encoded = tf.data.Dataset.from_tensors((contents, 3)).repeat()
    batches = input_speed.plain_batches(encoded, size=(16, 20), batch_size=64)
    images, labels = next(iter(batches))
    assert images.shape == [64, 16, 20, 3] and images.dtype == tf.uint8
    np.testing.assert_array_equal(labels, [3] * 64)
    rows = images.numpy()[..., 1].astype(int)
    assert np.abs(rows - rows[:, :1]).max() <= 2
    rises = rows[:, 0, -1] - rows[:, 0, 0]
    # 8 to 100 % of the area: 24 to 100 % of the width, of 230 levels.
    assert 10 < np.sum(rises < 0) < 54
    assert np.abs(rises).min() > 40 and np.abs(rises).max() <= 230
    assert len(set(np.abs(rises))) > 20


def test_files_of_a_folder_with_their_labels(folder):
    assert input_speed.train_folder(f"folder:{folder}") == str(folder / "Training")
    encoded = input_speed.encoded_files(str(folder / "Training"))
    found = {(bytes(x), int(y)) for x, y in encoded.take(8).as_numpy_iterator()}
    assert found == {
        (path.read_bytes(), label)
        for label, name in enumerate("ab")
        for path in (folder / "Training" / name).iterdir()
    }
    flat = folder / "Training"
    assert input_speed.train_folder(f"folder:{flat}") == str(flat)


def test_other_files_than_jpegs_are_refused(folder):
    (folder / "test" / "a" / "x.png").write_bytes(file_of(scene(9, 9), "png"))
    with pytest.raises(UserError, match=r"JPEG files only, but .*test holds .*x\.png"):
        input_speed.encoded_files(str(folder / "test"))


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_records_of_tfds(tmp_path, encoding):
    import tensorflow_datasets as tfds

    photos = [scene(20, 24, seed=number) for number in range(5)]
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format=encoding),
        "label": tfds.features.ClassLabel(num_classes=5),
    }
    tfds.dataset_builders.TfDataBuilder(
        name="photos",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={
            "train": tf.data.Dataset.from_tensor_slices(
                {"image": np.stack(photos), "label": np.arange(5, dtype=np.int64)}
            )
        },
        features=tfds.features.FeaturesDict(features),
    ).download_and_prepare()
    with flagsaver.as_parsed(data_dir=str(tmp_path)):
        if encoding == "png":
            with pytest.raises(
                UserError, match="JPEG images only, but those of photos"
            ):
                input_speed.encoded_records("photos")
            return
        records = input_speed.encoded_records("photos").take(5)
    found = sorted(records.as_numpy_iterator(), key=lambda record: record[1])
    for number, (contents, label) in enumerate(found):
        assert label == number
        pixels = tf.io.decode_jpeg(contents).numpy().astype(int)
        assert np.abs(pixels - photos[number]).mean() < 12


def test_a_measurement_ends_with_its_figures(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(input_speed, "_WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(input_speed, "_has_torchvision", lambda: False)
    given = {"dataset": f"folder:{folder}", "image_size": "80", "batch_size": "4"}
    with flagsaver.as_parsed(**given, cache_dir=str(tmp_path), rounds="2", steps="1"):
        benchmark.main(["benchmark", "input"])
    captured = capsys.readouterr()
    assert "torchvision is left out" in captured.err
    result = json.loads(captured.out.splitlines()[-1])
    ours, plain = (result["images_per_second"][name] for name in ("afd_tf", "tf.data"))
    assert len(ours) == len(plain) == 2
    ratio = result["ratio_of_afd_tf_to"]["tf.data"]
    assert ratio["median"] == pytest.approx(np.median(np.divide(ours, plain)), 0.02)
    assert result["image_shape"] == [80, 80, 3] and result["batch_size"] == 4
