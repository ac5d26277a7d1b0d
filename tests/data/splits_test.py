import hashlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from afd_tf.base.errors import UserError
from afd_tf.data.splits import choose_sides, place


def hashes(count, start=0):
    return [
        hashlib.sha256(str(number).encode()).hexdigest()
        for number in range(start, start + count)
    ]


def divide(texts, labels, test=0.2, validation=0.0):
    return choose_sides(
        texts,
        labels,
        test_fraction=test,
        validation_fraction=validation,
        name="photos",
    )


def test_the_place_is_the_beginning_of_the_hash():
    assert place("0" * 64) == 0.0
    assert place("8" + "0" * 63) == 0.5
    assert place("f" * 64) == 1 - 16.0**-13


def test_sides_follow_from_the_places():
    texts = hashes(2000)
    sides = divide(texts, [n % 2 for n in range(2000)], 0.2, 0.1)
    values = [int(text, 16) / 16**64 for text in texts]
    expected = [
        "test" if value < 0.2 else "validation" if value < 0.3 else "train"
        for value in values
    ]
    assert sides == expected


def test_each_class_is_divided_in_proportion_up_to_chance():
    labels = np.repeat([0, 1, 2], [4000, 400, 100])
    sides = np.array(divide(hashes(4500), labels.tolist(), 0.25))
    for label, count in ((0, 4000), (1, 400), (2, 100)):
        held_out = np.count_nonzero(sides[labels == label] == "test")
        deviation = np.sqrt(count * 0.25 * 0.75)
        assert abs(held_out - count * 0.25) < 3 * deviation


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=40, max_size=80),
    removed=st.sets(st.integers(0, 79), max_size=20),
    start=st.integers(0, 10**6),
)
def test_removing_images_moves_no_other(labels, removed, start):
    texts = hashes(len(labels), start)
    kept = [index for index in range(len(labels)) if index not in removed]
    by_place = {
        index: "test" if place(texts[index]) < 0.3 else "train" for index in kept
    }
    # But for the two exceptions that the module states.
    trained = {labels[index] for index in kept if by_place[index] == "train"}
    assume(trained == set(labels))
    assume("test" in by_place.values())
    before = divide(texts, labels, 0.3)
    after = divide([texts[i] for i in kept], [labels[i] for i in kept], 0.3)
    assert [before[index] for index in kept] == after


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=30),
    start=st.integers(0, 10**6),
    test=st.floats(0.01, 0.6),
    validation=st.sampled_from([0.0, 0.01, 0.39]),
)
def test_every_class_trains_and_every_side_has_images(labels, start, test, validation):
    texts = hashes(len(labels), start)
    wanted = {"test"} | ({"validation"} if validation else set())
    try:
        sides = divide(texts, labels, test, validation)
    except UserError as error:
        assert "add images" in str(error)
        assert len(labels) - len(set(labels)) < len(wanted)
        return
    trained = {label for label, s in zip(labels, sides, strict=True) if s == "train"}
    assert trained == set(labels)
    assert wanted <= set(sides)
    for label in set(labels):
        if labels.count(label) == 1:
            assert sides[labels.index(label)] == "train"


def test_fractions_must_leave_something():
    with pytest.raises(UserError, match="leave nothing to train on"):
        divide(hashes(9), [0] * 9, 0.5, 0.5)
