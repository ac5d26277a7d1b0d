"""Figures: every text and number is shown, and none overlaps another."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from afd_tf.analysis import discriminators, figures
from afd_tf.analysis.grad_cam import GradCam
from tests import exports


def test_accuracy_without_its_halves():
    key = "train/peer_0/discriminator_accuracy"
    metrics = [{"epoch": 1}, {"epoch": 2, key: 0.8}, {"epoch": 3, key: 0.9}]
    health = discriminators.discriminator_health(metrics, ["a"])
    assert health[0]["epochs"] == [2, 3] and health[0]["real"] == [None, None]
    drawn(figures.discriminator_figure(health))


def drawn(figure):
    """Draws a figure; returns its pixels [h, w, channels]."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer))


def boxes(figure, texts):
    """Returns the extents of texts, [left, bottom, right, top] in pixels."""
    drawn(figure)
    return [text.get_window_extent().extents for text in texts if text.get_text()]


def overlap(first, second):
    return (
        min(first[2], second[2]) > max(first[0], second[0]) + 1
        and min(first[3], second[3]) > max(first[1], second[1]) + 1
    )


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 40, 3), (40, 16, 3)])
def test_nothing_in_a_panel_overlaps(shape):
    class_names = ["a" * 30, "$5 note", "apple, or pear", "x", "no $ or a $"]
    seen = GradCam(
        np.random.default_rng(0).random((3, *shape[:2])),
        np.array([0, 1, 2]),
        np.array([1, 0.5, 0.255]),
    )
    figure = figures.grad_cam_figure(
        exports.random_images(shape, 3),
        titles=["a long name of a class", "b" * 40, "c\n\x1b\udcff"],
        labels=[0, 1, 1],
        results={"a_very_long_name_of_a_run/wrn_28_10 (peer_0)": seen, "x": seen},
        class_names=class_names,
        explained="predicted class",
    )
    cells = figure.axes
    assert len(cells) == 9
    colors = [cell.xaxis.label.get_color() for cell in cells if cell.get_xlabel()]
    assert colors == ["black", "black", "black", "black", "firebrick", "firebrick"]
    places = boxes(
        figure,
        [
            *figure.texts,
            *(cell.title for cell in cells),
            *(cell.xaxis.label for cell in cells),
            *(cell.yaxis.label for cell in cells),
        ],
    )
    assert len(places) == 1 + 3 + 6 + 3
    places += [cell.get_window_extent().extents for cell in cells]
    height, width, _ = drawn(figure).shape
    for number, place in enumerate(places):
        assert place[0] >= 0 and place[1] >= 0, place
        assert place[2] <= width and place[3] <= height, place
        assert not any(overlap(place, other) for other in places[:number]), place


@pytest.mark.parametrize("count", [2, 3, 7])
def test_heat_maps_show_every_number(count):
    names = [f"a_long_name_of_run_{number}/resnet8 $" for number in range(count)]
    pairs = [
        {
            "networks": (first, second),
            "cka": -0.01 * second,
            "cosine": None if second == 1 else 0.1 * second,
        }
        for first in range(count)
        for second in range(first + 1, count)
    ]
    figure = figures.similarity_figure(pairs, names)
    # Where no two maps have one shape, there is no cosine to show.
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == ["linear CKA", "mean cosine"][
        : 1 + (count > 2)
    ]
    texts = np.array([text.get_text() for text in maps[0].texts])
    expected = np.array(
        [
            ["1.000" if a == b else f"{-0.01 * max(a, b):.3f}" for a in range(count)]
            for b in range(count)
        ]
    )
    np.testing.assert_array_equal(texts.reshape(count, count), expected)
    places = boxes(figure, [*maps[0].texts, *maps[0].get_yticklabels()])
    assert not any(
        overlap(place, other)
        for number, place in enumerate(places)
        for other in places[:number]
    )


@pytest.mark.parametrize("count", [1, 2, 9, 25])
def test_a_confusion_matrix_shows_every_count_and_name(count):
    matrix = np.random.default_rng(0).integers(0, 99_999, (count, count))
    matrix[0] = 0
    names = ["a $ and a $, of a very long name", *map(str, range(1, count))]
    figure = figures.confusion_figure(matrix, names, "resnet8: " + 9 * "a long title ")
    axes = figure.axes[0]
    shown = {
        tuple(np.int64(text.get_position())[::-1]): text.get_text()
        for text in axes.texts
    }
    # The class without images shows none.
    assert shown == {
        place: f"{images}" for place, images in np.ndenumerate(matrix) if images
    }
    columns, rows = axes.get_xticklabels(), axes.get_yticklabels()
    for labels in (columns, rows):
        found = [label.get_text() for label in labels]
        assert found[1:] == names[1:]
        assert found[0].startswith(r"a \$ and a \$, of a")
    texts = [figure._suptitle, axes.xaxis.label, axes.yaxis.label, *columns, *rows]
    places = boxes(figure, [*axes.texts, *texts])
    width, height = figure.get_size_inches() * figure.dpi
    for number, place in enumerate(places):
        assert place[0] >= 0 and place[1] >= 0, place
        assert place[2] <= width and place[3] <= height, place
        assert not any(overlap(place, other) for other in places[:number]), place


def test_a_confusion_matrix_of_many_classes_has_names_but_no_counts():
    matrix = 3 * np.eye(100, dtype=int) + np.eye(100, k=1, dtype=int)
    names = [f"class {number}" for number in range(100)]
    figure = figures.confusion_figure(matrix, names, "x")
    axes = figure.axes[0]
    assert not axes.texts
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    pixels = drawn(figure)
    places = [each.get_window_extent().extents for each in axes.get_yticklabels()]
    assert not any(overlap(a, b) for a, b in itertools.pairwise(places))
    # A shade for 3/4, one for 1/4, and one for nothing.
    left, bottom, right, top = np.int64(axes.get_window_extent().extents)
    cells = pixels[len(pixels) - top + 3 : len(pixels) - bottom - 3, left + 3 : right]
    middle = cells[len(cells) // 2, :-9]
    assert len(np.unique(middle, axis=0)) == 3


def test_a_confusion_matrix_of_a_thousand_classes_has_labels():
    figure = figures.confusion_figure(
        np.eye(1000, dtype=int), [f"class {number}" for number in range(1000)], "x"
    )
    axes = figure.axes[0]
    assert len(axes.get_yticks()) < 20
    assert axes.get_ylabel() == "true class (label, from 0)"
    assert max(figure.get_size_inches()) < 25
