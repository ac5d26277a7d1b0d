import re

import numpy as np
import pytest
from PIL import Image

from afd_tf import data
from afd_tf.base.errors import UserError
from afd_tf.data import image_files

BASIC = {"train/a": 3, "train/b": 4, "test/a": 1, "test/b": 2}


def load(root, **arguments):
    return data.load(f"folder:{root}", **arguments)


def everything(dataset, split):
    batches = dataset.evaluation_batches(split, batch_size=4).as_numpy_iterator()
    batches = list(batches)
    weight = np.concatenate([batch["weight"] for batch in batches]) == 1
    return tuple(
        np.concatenate([batch[name] for batch in batches])[weight]
        for name in ("image", "label")
    )


def test_images_and_labels(make_folder):
    root = make_folder(BASIC)
    (root / "train/a/.DS_Store").write_text("x")
    (root / "train/b/Thumbs.db").write_text("x")
    (root / ".git").mkdir()
    (root / "train/.hidden").mkdir()
    dataset = load(root)
    assert dataset.info.name == f"folder:{root}"
    assert dataset.info.class_names == ("a", "b")
    assert dataset.info.image_shape == (8, 8, 3)
    assert dataset.info.examples == {"train": 7, "validation": 0, "test": 3}
    assert dataset.info.augment == "cifar"
    images, labels = everything(dataset, "train")
    files = sorted(root.glob("train/*/*.png"))
    expected = np.stack([np.asarray(Image.open(file)) for file in files])
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, [0, 0, 0, 1, 1, 1, 1])
    pixels = expected.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(dataset.info.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.info.variance, pixels.var(0), rtol=1e-9)


def test_relative_paths_become_absolute(make_folder, monkeypatch):
    root = make_folder(BASIC)
    monkeypatch.chdir(root.parent)
    assert load(root.name).info.name == f"folder:{root}"


def test_val_is_the_test_split_where_there_is_no_other(make_folder):
    root = make_folder({"train/a": 2, "train/b": 2, "val/b": 3})
    dataset = load(root)
    assert dataset.info.examples == {"train": 4, "validation": 0, "test": 3}
    np.testing.assert_array_equal(everything(dataset, "test")[1], [1, 1, 1])


def test_val_beside_test_is_the_validation_split(make_folder):
    root = make_folder({**BASIC, "val/a": 5})
    dataset = load(root)
    assert dataset.info.examples == {"train": 7, "validation": 5, "test": 3}
    assert len(everything(dataset, "validation")[1]) == 5
    with pytest.raises(UserError, match="validation split of its own"):
        load(root, validation_examples=2)


def test_changed_files_are_seen(make_folder):
    root = make_folder(BASIC)
    load(root)
    Image.fromarray(np.full([8, 8, 3], 9, np.uint8)).save(root / "train/a/000.png")
    Image.fromarray(np.full([8, 8, 3], 9, np.uint8)).save(root / "train/b/999.png")
    images, labels = everything(load(root), "train")
    np.testing.assert_array_equal(images[0], np.full([8, 8, 3], 9))
    np.testing.assert_array_equal(labels, [0, 0, 0, 1, 1, 1, 1, 1])


def test_an_unchanged_folder_is_not_decoded_again(make_folder, monkeypatch):
    root = make_folder(BASIC)
    before = everything(load(root), "train")
    monkeypatch.setattr(image_files, "read_image", None)
    monkeypatch.setattr(image_files, "upright_shape", None)
    after = everything(load(root), "train")
    np.testing.assert_array_equal(before[0], after[0])


def test_grey_only_if_all_are(make_folder):
    root = make_folder(BASIC, mode="L")
    dataset = load(root)
    assert dataset.info.image_shape == (8, 8, 1)
    assert dataset.info.augment == "none"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(root / "test/a/red.png")
    dataset = load(root)
    assert dataset.info.image_shape == (8, 8, 3)
    images, _ = everything(dataset, "test")
    np.testing.assert_array_equal(images[0][..., 0], images[0][..., 2])
    np.testing.assert_array_equal(images[1][0, 0], [255, 0, 0])


def test_different_sizes(make_folder):
    root = make_folder(BASIC)
    Image.new("RGB", (30, 20), (10, 20, 30)).save(root / "train/a/wide.png")
    with pytest.raises(UserError, match=r"from 8x8 to 20x30 .*--image_size=N"):
        load(root)
    dataset = load(root, image_size=6)
    assert dataset.info.image_shape == (6, 6, 3)
    images, _ = everything(dataset, "train")
    np.testing.assert_array_equal(images[3], np.tile([10, 20, 30], [6, 6, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "there is no directory"),
        ("no_train", "no folder 'train'"),
        ("no_test", "neither a folder 'test' nor a folder 'val'"),
        ("one_class", "at least two; it holds 1"),
        ("empty_class", "class folder .*train/empty is empty"),
        ("no_image", r"train/b/notes\.txt is no image"),
        ("broken", r"train/b/000\.png is a broken image"),
        ("surplus", "test holds the class 'c', which the training images lack"),
        ("splits", "--train_split and --test_split are for tfds names"),
    ],
)
def test_mistakes(make_folder, change, message):
    counts = dict(BASIC)
    arguments = {}
    if change == "no_train":
        counts = {"test/a": 1, "test/b": 1}
    elif change == "no_test":
        counts = {"train/a": 1, "train/b": 1}
    elif change == "one_class":
        counts = {"train/a": 1, "test/a": 1}
    elif change == "empty_class":
        counts["train/empty"] = 0
    elif change == "surplus":
        counts["test/c"] = 1
    root = make_folder(counts)
    if change == "missing":
        root = root / "nowhere"
    elif change == "no_image":
        (root / "train/b/notes.txt").write_text("not an image")
    elif change == "broken":
        file = root / "train/b/000.png"
        file.write_bytes(file.read_bytes()[:120])
    elif change == "splits":
        arguments["train_split"] = "train[:80%]"
    with pytest.raises(UserError, match=message) as error:
        load(root, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("augment", ["none", "cifar", "imagenet"])
def test_streaming(make_folder, monkeypatch, augment):
    root = make_folder({"train/a": 9, "train/b": 12, "test/a": 3, "test/b": 2})
    arguments = {"augment": augment, "validation_examples": 5}
    held = load(root, **arguments)
    monkeypatch.setattr("afd_tf.data.dataset.MAX_IN_MEMORY_BYTES", 0)
    streamed = load(root, **arguments)
    assert streamed.info.examples == {"train": 16, "validation": 5, "test": 5}
    if augment != "imagenet":  # which cuts the edges off
        np.testing.assert_allclose(streamed.info.mean, held.info.mean, rtol=1e-12)
        for split in ("train", "validation", "test"):
            for left, right in zip(
                everything(held, split), everything(streamed, split), strict=True
            ):
                np.testing.assert_array_equal(left, right)
    batches = {"batch_size": 5, "seed": 1, "epochs": 3}
    whole = list(streamed.train_batches(**batches).as_numpy_iterator())
    assert [len(batch["label"]) for batch in whole] == [5, 5, 5, 1] * 3
    rest = list(streamed.train_batches(**batches, first_step=6).as_numpy_iterator())
    assert len(rest) == 6
    for expected, found in zip(whole[6:], rest, strict=True):
        np.testing.assert_array_equal(expected["image"], found["image"])
        np.testing.assert_array_equal(expected["label"], found["label"])
    assert (whole[0]["image"] != whole[4]["image"]).any()
    if augment == "none":
        table = {image.tobytes() for image in everything(held, "train")[0]}
        for epoch in range(3):
            images = [b["image"] for b in whole[epoch * 4 : epoch * 4 + 4]]
            assert {image.tobytes() for image in np.concatenate(images)} == table


def test_streamed_images_of_different_sizes(make_folder, monkeypatch):
    root = make_folder(BASIC)
    Image.new("RGB", (300, 256), (10, 20, 30)).save(root / "test/a/wide.png")
    monkeypatch.setattr("afd_tf.data.dataset.MAX_IN_MEMORY_BYTES", 0)
    dataset = load(root, image_size=16, augment="imagenet")
    (batch,) = dataset.train_batches(batch_size=8, seed=0, epochs=1)
    assert batch["image"].shape == [7, 16, 16, 3]
    images, _ = everything(dataset, "test")
    np.testing.assert_array_equal(images[1], np.tile([10, 20, 30], [16, 16, 1]))


def test_a_streamed_image_that_breaks_is_named(make_folder, monkeypatch):
    root = make_folder(BASIC)
    file = root / "train/b/000.png"
    file.write_bytes(file.read_bytes()[:120])
    monkeypatch.setattr("afd_tf.data.dataset.MAX_IN_MEMORY_BYTES", 0)
    with pytest.raises(UserError, match=re.escape("train/b/000.png")):
        load(root)
