import hashlib
import json
import os

import pytest

from afd_tf.base.errors import UserError
from afd_tf.data import records
from afd_tf.data.image_file import ImageFile

CLASSES = ("a", "b")


def image(path, label=0, content=None):
    digest = hashlib.sha256((content or path).encode("utf-8", "replace")).hexdigest()
    return ImageFile(path, label, 9, 8, 8, 3, 1, True, digest, "0" * 32, 0.0, False)


IMAGES = [
    (image("a/1"), "train"),
    (image("a/2"), "test"),
    (image("b/\n\udce9", 1), "train"),
    (image("b/4", 1), "validation"),
]
RECORD = records.make(IMAGES, CLASSES)


def undivided(images=IMAGES):
    return [(image, "") for image, _ in images]


def apply(images, changed_data="refuse", classes=CLASSES):
    return records.apply(
        RECORD, images, classes, changed_data=changed_data, name="photos"
    )


def test_the_text_gives_the_record_back():
    text = records.dumps(RECORD)
    assert text.isascii()
    assert text.count("\n") == len(IMAGES) + 2
    assert records.loads(text) == json.loads(text) == RECORD
    assert RECORD["images"][2][:3] == ["train", "b", "b/\n\udce9"]
    assert records.loads(records.dumps(records.make([], CLASSES)))["images"] == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2, "images": []}'])
def test_damaged_text(text):
    with pytest.raises(UserError, match="damaged, or of a newer version"):
        records.loads(text)


def test_the_same_images_take_their_sides_and_their_order():
    assert apply(undivided(IMAGES[::-1])) == IMAGES


def test_renamed_files_and_other_orders_of_classes_are_the_same():
    renamed = [(i._replace(path=f"x{os.sep}{i.path}"), "") for i, _ in IMAGES]
    assert apply(renamed) == [
        (image, side) for (image, _), (_, side) in zip(renamed, IMAGES, strict=True)
    ]
    swapped = [(i._replace(label=1 - i.label), "") for i, _ in IMAGES]
    assert [i.label for i, _ in apply(swapped, classes=("b", "a"))] == [1, 1, 0, 0]


def test_added_images():
    more = [*undivided(), (image("a/5"), "")]
    with pytest.raises(UserError, match=r"1 added \(a/5\).*--changed_data=recorded"):
        apply(more)
    assert apply(more, "recorded") == IMAGES
    assert apply(more, "available") == IMAGES


def test_removed_images(capsys):
    for mode in ("refuse", "recorded"):
        with pytest.raises(UserError, match=r"1 removed \(a/1\).*Restore those"):
            apply(undivided(IMAGES[1:]), mode)
    assert apply(undivided(IMAGES[1:]), "available") == IMAGES[1:]
    assert (
        "have changed since the run began: 1 removed (a/1)" in capsys.readouterr().err
    )


def test_a_changed_image_is_removed_and_added():
    changed = [(image("a/1", content="new"), ""), *undivided(IMAGES[1:])]
    with pytest.raises(UserError, match=r"1 added \(a/1\), 1 removed \(a/1\)"):
        apply(changed)


def test_an_image_in_another_class_keeps_the_recorded_one():
    moved = [(image("a/1")._replace(label=1, path="b/1"), ""), *undivided(IMAGES[1:])]
    with pytest.raises(UserError, match=r"1 in another class or split \(b/1\)"):
        apply(moved)
    found = apply(moved, "recorded")
    assert (found[0][0].label, found[0][1]) == (0, "train")


def test_given_splits_are_compared():
    assert apply(IMAGES) == IMAGES
    as_given = [(i, "train" if side == "validation" else side) for i, side in IMAGES]
    assert apply(as_given) == IMAGES
    moved = [(IMAGES[0][0], "test"), *IMAGES[1:]]
    with pytest.raises(UserError, match="another class or split"):
        apply(moved)


def test_copies_are_told_apart_by_their_paths():
    copies = [
        (image("a/1", content="x"), "train"),
        (image("b/1", 1, content="x"), "test"),
    ]
    record = records.make(copies, CLASSES)
    found = records.apply(
        record, copies[::-1], CLASSES, changed_data="refuse", name="photos"
    )
    assert found == copies
