"""Trees of all kinds: a clear message or a data set, never a traceback."""

import os
import shutil
import tempfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from afd_tf.base.errors import UserError
from afd_tf.data.cache import Cache
from afd_tf.data.folder_layout import list_folder
from afd_tf.data.folder_source import FolderSource


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return str(root)


def found(path):
    listing = list_folder(path)
    return {
        file.path: (listing.class_names[file.label], file.split)
        for file in listing.files
    }


def test_nested_folders_links_and_hidden_files(tmp_path):
    root = tmp_path / "x"
    path = touch(
        root,
        "a/1.png",
        "a/deep/er/2.png",
        "a/.hidden.png",
        "b/3.png",
        "b/Thumbs.db",
        ".git/x",
        "a/__MACOSX/4.png",
        "elsewhere.txt",
    )
    touch(tmp_path, "other/5.png")
    os.symlink(tmp_path / "other", root / "c")
    os.symlink(tmp_path / "other/5.png", root / "b/5.png")
    os.symlink(root, root / "a/up")
    os.symlink("..", root / "a/deep/loop")
    assert found(path) == {
        "a/1.png": ("a", None),
        "a/deep/er/2.png": ("a", None),
        "b/3.png": ("b", None),
        "b/5.png": ("b", None),
        "c/5.png": ("c", None),
    }


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "test"), ("train", "test")),
        (("Training", "TESTING", "Valid"), ("train", "test", "validation")),
        (("TRAIN", "validation"), ("train", "test")),
        (("train",), ("train",)),
    ],
)
def test_names_of_splits(tmp_path, names, splits):
    path = touch(tmp_path, *(f"{name}/{c}/1.png" for name in names for c in "ab"))
    assert Counter(split for _, split in found(path).values()) == dict.fromkeys(
        splits, 2
    )


def test_a_class_called_train(tmp_path):
    path = touch(tmp_path, "train/1.png", "bus/1.png", "test/1.png")
    assert set(found(path).values()) == {("train", None), ("bus", None), ("test", None)}


def test_a_training_folder_beside_classes_is_a_question(tmp_path):
    path = touch(tmp_path, "train/steam/1.png", "bus/1.png", "tram/1.png")
    with pytest.raises(UserError, match="beside bus, tram: is it a split or"):
        list_folder(path)


def test_what_is_left_out_is_named(tmp_path, capsys):
    path = touch(
        tmp_path,
        "train/a/1.png",
        "train/b/1.png",
        "test/a/1.png",
        "extra/a/1.png",
        "train/loose.jpg",
    )
    list_folder(path)
    message = capsys.readouterr().err
    assert "not used, as they name no split: extra" in message
    assert "in no class folder: 1 images (loose.jpg)" in message


def test_links_to_nothing_are_problems(tmp_path):
    path = touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    os.symlink("nowhere", tmp_path / "train/c")
    os.symlink("gone.png", tmp_path / "test/a/2.png")
    os.symlink("gone", tmp_path / "valid")
    problems = dict(list_folder(path).problems)
    assert set(problems) == {"train/c", "test/a/2.png", "valid"}
    assert "a symbolic link to nowhere, which does not exist" in problems["train/c"]


NAMES = st.text(
    st.sampled_from("abTé\u0301\n\t \u2028\\'\",;.-~$*?🙂\udcff"),
    min_size=1,
    max_size=6,
).filter(lambda name: name not in (".", ".."))
PIXELS = st.integers(0, 5)
ENTRIES = st.one_of(
    st.tuples(st.just("image"), PIXELS),
    st.tuples(st.just("empty"), st.just(0)),
    st.tuples(st.just("broken"), PIXELS),
    st.tuples(st.just("text"), PIXELS),
    st.tuples(st.just("link"), st.integers(0, 20)),
    st.tuples(st.just("folder"), st.just(0)),
)
TREES = st.dictionaries(
    st.tuples(
        st.sampled_from(["", "train", "Test", "valid"]) | NAMES,
        st.sampled_from(["a", "b", "c"]) | NAMES,
        NAMES,
    ),
    ENTRIES,
    max_size=25,
)


def build(root, tree, images):
    """Makes a tree; what the system does not allow is left out."""
    made = [root]
    for parts, (kind, number) in tree.items():
        path = os.path.join(root, *(part for part in parts if part))
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if kind == "link":
                os.symlink(made[number % len(made)] if number < 18 else "gone", path)
            elif kind == "folder":
                os.mkdir(path)
            else:
                content = {
                    "image": images[number],
                    "empty": b"",
                    "broken": images[number][:60],
                    "text": b"<html>" * number + b"text",
                }[kind]
                with open(path, "xb") as file:
                    file.write(content)
        except OSError:
            continue
        made.append(path)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    contents = []
    for number in range(6):
        path = folder / f"{number}.png"
        image = Image.new("RGB", (9, 9), (number, 0, 0))
        image.putpixel((number, 3), (200, 100, number))
        image.save(path)
        contents.append(path.read_bytes())
    return contents


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES, skip=st.booleans())
def test_any_tree(encoded, tree, skip):
    folder = tempfile.mkdtemp()
    try:
        root = os.path.join(folder, "x")
        os.mkdir(root)
        build(root, tree, encoded)
        try:
            source = FolderSource(
                list_folder(root),
                image_size=None,
                cache=Cache(os.path.join(folder, "cache")),
                skip_bad_images=skip,
            )
        except UserError as error:
            assert root in str(error) or "--" in str(error)
            return
        rows = source.record["images"]
        assert len({path for _, _, path, _ in rows}) == len(rows)
        if not any(name.lower() == "test" for name in os.listdir(root)):
            assert len({digest for *_, digest in rows}) == len(rows)
        assert sum(source.counts.values()) == len(rows)
        assert set(source.labels("train")) == set(range(len(source.class_names)))
        for split in source.counts:
            images, labels = source.read(split)
            assert len(images) == len(labels) == source.counts[split] > 0
    finally:
        shutil.rmtree(folder)
