import collections
import hashlib
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from afd_tf import data
from afd_tf.base.errors import UserError
from afd_tf.data import image_files, records

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
    monkeypatch.setattr(image_files, "open_image", None)
    for file in root.glob("*/*/*"):
        os.utime(file, ns=(0, file.stat().st_mtime_ns))
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
        ("a_file", "is a file, not a folder"),
        ("no_train", "no folder 'train' beside 'test'"),
        ("two_names", r"the folders .*, which all name the same split"),
        ("no_test_images", "images/test holds no images"),
        ("one_class", "at least two; it holds 1"),
        ("empty_class", "class folder .*train/empty is empty"),
        ("no_image", r"train/b/notes\.txt is no image but a text: .*--skip_bad"),
        ("broken", r"train/b/000\.png is a broken image .*--skip_bad_images"),
        ("surplus", "test holds the class 'c', which the training images lack"),
        ("splits", "--train_split and --test_split are for tfds names"),
    ],
)
def test_mistakes(make_folder, change, message):
    counts = dict(BASIC)
    arguments = {}
    if change == "no_train":
        counts = {"test/a": 1, "test/b": 1}
    elif change == "two_names":
        counts["Training/a"] = 1
    elif change == "no_test_images":
        counts = {"train/a": 1, "train/b": 1, "test/a": 0}
    elif change == "one_class":
        counts = {"train/a": 1, "test/a": 1}
    elif change == "empty_class":
        counts["train/empty"] = 0
    elif change == "surplus":
        counts["test/c"] = 1
    root = make_folder(counts)
    if change == "missing":
        root = root / "nowhere"
    elif change == "a_file":
        root = root / "train/a/000.png"
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
    monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
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
    monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
    dataset = load(root, image_size=16, augment="imagenet")
    (batch,) = dataset.train_batches(batch_size=8, seed=0, epochs=1)
    assert batch["image"].shape == [7, 16, 16, 3]
    images, _ = everything(dataset, "test")
    np.testing.assert_array_equal(images[1], np.tile([10, 20, 30], [16, 16, 1]))


def test_a_broken_image_is_named_before_it_is_streamed(make_folder, monkeypatch):
    root = make_folder(BASIC)
    file = root / "train/b/000.png"
    file.write_bytes(file.read_bytes()[:120])
    monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
    with pytest.raises(UserError, match=re.escape("train/b/000.png")):
        load(root)


def flat(root, count=40):
    """A folder without splits: two classes of different images."""
    return make_images(root, {f"{'ab'[n % 2]}/{n:02}.png": n for n in range(count)})


def make_images(root, contents):
    for path, number in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, [8, 8, 3], np.uint8)
        Image.fromarray(pixels).save(root / path)
    return root


def sides(dataset):
    return {row[2]: row[0] for row in dataset.record["images"]}


def test_a_folder_without_splits_is_divided_by_content(tmp_path, capsys):
    dataset = load(flat(tmp_path / "x"), validation_fraction=0.25, test_fraction=0.25)
    found = sides(dataset)
    for path, side in found.items():
        content = (tmp_path / "x" / path).read_bytes()
        value = int(hashlib.sha256(content).hexdigest(), 16) / 2**256
        expected = "test" if value < 0.25 else "train" if value >= 0.5 else "validation"
        assert side == expected
    counts = collections.Counter(found.values())
    assert dataset.info.examples == counts
    assert sum(counts.values()) == 40
    assert "is divided by the images' content: " in capsys.readouterr().err
    images, labels = everything(dataset, "test")
    chosen = sorted(path for path, side in found.items() if side == "test")
    np.testing.assert_array_equal(labels, ["ab".index(path[0]) for path in chosen])
    for image, path in zip(images, chosen, strict=True):
        np.testing.assert_array_equal(image, Image.open(tmp_path / "x" / path))


def test_names_and_places_do_not_move_images(tmp_path):
    before = sides(load(flat(tmp_path / "x")))
    moved = tmp_path / "y"
    (tmp_path / "x").rename(moved)
    (moved / "a" / "deep").mkdir()
    (moved / "a/00.png").rename(moved / "a/deep/zz.png")
    make_images(moved, {"b/new.png": 99})
    after = sides(load(moved))
    before["a/deep/zz.png"] = before.pop("a/00.png")
    after.pop("b/new.png")
    assert before == after


def test_copies_are_used_once_and_contradictions_not_at_all(tmp_path, capsys):
    root = flat(tmp_path / "x")
    make_images(root, {"a/copy.png": 0, "b/other.png": 2})
    os.symlink(root / "b/01.png", root / "b/link.png")
    found = sides(load(root))
    assert len(found) == 39
    assert not {"a/copy.png", "b/link.png", "b/other.png", "a/02.png"} & set(found)
    message = capsys.readouterr().err
    assert "2 copies of other images are left out (a/copy.png, b/link.png)" in message
    assert "2 files are left out, as the same image is in several classes" in message


def test_only_a_training_folder_is_divided(tmp_path):
    flat(tmp_path / "x/Training")
    dataset = load(tmp_path / "x")
    assert dataset.info.examples["test"] > 0
    assert sum(dataset.info.examples.values()) == 40


def test_validation_images_are_taken_from_given_training_images(make_folder):
    root = make_folder({"train/a": 30, "train/b": 30, "test/a": 1, "test/b": 2})
    dataset = load(root, validation_fraction=0.3)
    assert dataset.info.examples["test"] == 3
    assert dataset.info.examples["validation"] > 5
    assert sum(dataset.info.examples.values()) == 63
    record = dataset.record
    assert load(root, validation_fraction=0.3, recorded=record).record == record
    with pytest.raises(UserError, match="give one of them"):
        load(root, validation_fraction=0.3, validation_examples=3)
    make_folder({"val/a": 1})
    with pytest.raises(UserError, match="validation split of its own"):
        load(root, validation_fraction=0.3)


def test_one_image_of_a_class_and_one_class_of_a_hundred(tmp_path):
    root = make_images(
        tmp_path / "x",
        {"rare/1.png": 1000} | {f"often/{n}.png": n for n in range(100)},
    )
    dataset = load(root)
    assert sides(dataset)["rare/1.png"] == "train"
    (batch,) = dataset.train_batches(batch_size=500, seed=0, epochs=1)
    assert len(batch["label"]) == dataset.info.examples["train"]


def test_a_run_goes_on_with_its_images(tmp_path):
    root = flat(tmp_path / "x")
    dataset = load(root)
    record = records.loads(records.dumps(dataset.record))
    make_images(root, {"a/new.png": 77})
    with pytest.raises(UserError, match=r"1 added \(a/new\.png\)"):
        load(root, recorded=record)
    again = load(root, recorded=record, changed_data="recorded")
    assert again.record == record
    # Other fractions do not matter any more: the sides are those of the run.
    other = load(root, recorded=record, changed_data="available", test_fraction=0.5)
    assert other.record == record
    (root / "a/00.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"00\.png is empty"):
        load(root, recorded=record)
    with pytest.raises(UserError, match=r"1 removed \(a/00\.png\)"):
        load(root, recorded=record, changed_data="recorded", skip_bad_images=True)
    evaluated = load(root, recorded=record, changed_data="available")
    assert evaluated.record["images"] == record["images"][1:]


def test_the_same_image_on_both_sides_is_said(make_folder, capsys):
    root = make_folder({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})
    for name in ("000", "001"):
        content = (root / f"train/a/{name}.png").read_bytes()
        (root / f"test/b/{name}.png").write_bytes(content)
    dataset = load(root)
    assert dataset.leakage == {"copies": 2, "look_alikes": 0}
    assert (
        "2 held-out images are the same as training images" in capsys.readouterr().err
    )
    assert dataset.info.examples == {"train": 8, "validation": 0, "test": 4}


def test_bad_images_are_listed_together_or_skipped(tmp_path, capsys):
    root = flat(tmp_path / "x")
    for number in range(23):
        (root / f"a/bad {number:02}.jpg").write_bytes(b"")
    os.symlink("nowhere", root / "c")
    os.symlink("loop", root / "a/loop")
    with pytest.raises(UserError, match=r"25 files of .*--skip_bad") as error:
        load(root)
    lines = str(error.value).split("\n")
    assert f"  {root}/a/bad 00.jpg is empty: remove it, or copy it again." in lines
    assert len(lines) == 23
    assert lines[21] == "  ... and 5 more"
    with open(re.search(r"listed in (.*)\.$", lines[22])[1]) as file:
        listed = file.read()
    assert listed.count("\n") == 25
    assert f"{root}/c is a symbolic link to nowhere, which does not exist" in listed
    assert f"{root}/a/loop is a symbolic link that leads back to itself" in listed
    dataset = load(root, skip_bad_images=True)
    assert dataset.skipped == 25
    assert sum(dataset.info.examples.values()) == 40
    assert "25 files" in capsys.readouterr().err


def test_a_class_that_loses_all_images(tmp_path):
    root = flat(tmp_path / "x")
    (root / "c").mkdir()
    (root / "c/1.png").write_bytes(b"")
    with pytest.raises(UserError, match="no training image of the class 'c' left"):
        load(root, skip_bad_images=True)


def test_a_test_split_that_loses_all_images_is_not_replaced(make_folder):
    root = make_folder({"train/a": 9, "train/b": 9, "test/a": 1})
    (root / "test/a/000.png").write_bytes(b"")
    with pytest.raises(UserError, match="holds no images of the split 'test'"):
        load(root, skip_bad_images=True)


def test_names_of_any_bytes(tmp_path, monkeypatch):
    names = ["caf\udce9", "a\nb", "tab\t", "\u2028"]
    root = make_images(
        tmp_path / "x",
        {
            f"{name}/{n} \udcff\n.png": hash_of(name, n)
            for name in names
            for n in range(5)
        },
    )
    dataset = load(root)
    assert dataset.info.class_names == (r"a\nb", r"caf\udce9", r"tab\t", r"\u2028")
    text = json.dumps(dataset.info.to_json(), ensure_ascii=False)
    assert text.encode("utf-8").count(b"\n") == 0
    assert records.loads(records.dumps(dataset.record)) == dataset.record
    monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
    streamed = load(root)
    for side in ("train", "test"):
        for left, right in zip(
            everything(dataset, side), everything(streamed, side), strict=True
        ):
            np.testing.assert_array_equal(left, right)


def hash_of(name, number):
    return sum(map(ord, name)) * 10 + number


def test_names_that_look_the_same(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make_images(
        tmp_path / "x",
        {
            f"train/{composed}/1.png": 1,
            f"test/{decomposed}/1.png": 2,
            "train/b/1.png": 3,
        },
    )
    dataset = load(tmp_path / "x")
    assert dataset.info.class_names == ("b", composed)
    np.testing.assert_array_equal(everything(dataset, "test")[1], [1])
    make_images(tmp_path / "x", {f"train/{decomposed}/1.png": 1})
    with pytest.raises(UserError, match="names that look the same"):
        load(tmp_path / "x")


def test_an_image_of_another_mode_does_not_hit_the_cache(make_folder):
    root = make_folder(BASIC, mode="L")
    load(root)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(root / "test/a/red.png")
    assert everything(load(root), "train")[0].shape == (7, 8, 8, 3)


def test_values_of_more_than_8_bits(tmp_path, capsys):
    root = tmp_path / "x"
    deep = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    for number in range(10):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(deep, number)).save(folder / f"{number}.png")
    dataset = load(root)
    assert dataset.info.white_level == 4095
    assert "10 images have more than 8 bits per channel" in capsys.readouterr().err
    images, _ = everything(dataset, "train")
    assert set(np.unique(images)) == set(np.unique(deep // 16))
    again = data.DatasetInfo.from_json(json.loads(json.dumps(dataset.info.to_json())))
    assert again == dataset.info


def test_images_without_contrast_are_refused(tmp_path):
    for number in range(8):
        folder = tmp_path / "x" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (8, 8), (7, 7, 7))
        image.save(folder / f"{number}.png", dpi=(number + 1, 1))
    with pytest.raises(UserError, match=r"all pixels .* are the same \(7, 7, 7\)"):
        load(tmp_path / "x")


@pytest.mark.parametrize("form", ["{}/", "{}/./", "{}/../x", "~/x", "x", "./x/"])
def test_forms_of_a_path(tmp_path, monkeypatch, form):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    name = "folder:" + form.format(tmp_path / "x")
    assert data.canonical_name(name) == f"folder:{tmp_path}/x"
    assert data.canonical_name("cifar10_1/v4") == "cifar10_1/v4"


def test_a_path_without_its_prefix(tmp_path, monkeypatch):
    monkeypatch.chdir(flat(tmp_path / "pics").parent)
    with pytest.raises(UserError, match=r"'pics' is a folder: .*--dataset=folder:pics"):
        data.load("pics")
    (tmp_path / "list.csv").touch()
    with pytest.raises(UserError, match=r"--dataset=csv:list\.csv"):
        data.load("list.csv")
    with pytest.raises(UserError, match="lacks the path"):
        data.load("folder:")
    with pytest.raises(UserError, match="the home of that user is not known"):
        data.load("folder:~nobody-here/pics")


def test_random_crops_are_taken_from_whole_images(tmp_path, monkeypatch):
    # In 16 pixels the stripes are too fine to be seen, but not in a part of the image.
    stripes = np.where(np.arange(1024) % 64 < 32, 0, 200).astype(np.uint8)
    for number in range(10):
        folder = tmp_path / "x" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.tile(stripes, [1024, 1]) + np.uint8(number))
        image.save(folder / f"{number}.png")
    arguments = {"image_size": 16, "augment": "imagenet"}
    dataset = load(tmp_path / "x", **arguments)
    images, _ = everything(dataset, "test")
    paths = [row[2] for row in dataset.record["images"] if row[0] == "test"]
    for image, path in zip(images, paths, strict=True):
        expected = image_files.read_image(
            tmp_path / "x" / path, channels=1, image_size=16
        )
        assert np.abs(image.astype(int) - expected).max() <= 1
        assert np.ptp(image[:, 1:-1]) < 20
    batches = dataset.train_batches(batch_size=20, seed=0, epochs=3)
    crops = np.concatenate([b["image"] for b in batches.as_numpy_iterator()])
    assert np.count_nonzero(np.ptp(crops, axis=(1, 2, 3)) > 50) > len(crops) / 3
    # A large data set is evaluated as usual: "resize to 256, crop 224".
    monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
    large, _ = everything(load(tmp_path / "x", **arguments), "test")
    assert large.shape == images.shape
    assert (large != images).any()
