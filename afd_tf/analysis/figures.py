"""Figures of the results of the other modules of this package."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from afd_tf.base.console import one_line

if TYPE_CHECKING:
    from afd_tf.analysis.grad_cam import GradCam

_DOTS_PER_INCH = 150
# Sizes in inches: side of an image, gap, height of a line, width of a letter.
_CELL = 1.45
_GAP = 0.1
_LINE = 0.17
_LETTER = 0.075
# Letters that fit below or above an image, and beside a row.
_CELL_LETTERS = 18
_TITLE_LETTERS = 12
# Letters of a class beside a confusion matrix, and the numbers of classes up to which
# its cells have their counts, and its rows and columns their names.
_CLASS_LETTERS = 24
_COUNTED_CLASSES = 25
_NAMED_CLASSES = 120


def similarity_figure(
    pairs: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Figure:
    """Draws CKA of every two networks, and the cosine where some maps have one shape.

    Args:
      pairs: the result of `FeatureComparison.pairs`.
      names: the names of the networks.
    """
    shown = [("cka", "linear CKA")]
    if any(pair["cosine"] is not None for pair in pairs):
        shown.append(("cosine", "mean cosine"))
    labels = [_network_label(name) for name in names]
    side = max(2.2, 0.75 * len(names))
    figure = Figure(
        figsize=((side + 1.3) * len(shown) + 0.8, side + 1.5),
        dpi=_DOTS_PER_INCH,
        layout="constrained",
    )
    figure.suptitle("Similarity of feature maps, test images", fontsize=11)
    colors = matplotlib.colormaps["viridis"].with_extremes(bad="0.9")
    grid = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (key, title) in zip(grid, shown, strict=True):
        values = np.eye(len(names))
        for pair in pairs:
            first, second = pair["networks"]
            value = math.nan if pair[key] is None else pair[key]
            values[first, second] = values[second, first] = value
        mesh = axes.imshow(values, cmap=colors, vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(values):
            axes.text(
                column,
                row,
                "-" if math.isnan(value) else f"{value:.3f}",
                color="white" if value < 0.6 else "black",
                ha="center",
                va="center",
                fontsize=9,
            )
        axes.set_title(title, fontsize=10)
        ticks = range(len(names))
        axes.set_xticks(
            ticks, labels, rotation=45, rotation_mode="anchor", ha="right", fontsize=8
        )
        axes.set_yticks(ticks, labels, fontsize=8)
    figure.colorbar(mesh, ax=grid, shrink=0.8).ax.tick_params(labelsize=8)
    return figure


def confusion_figure(
    matrix: np.ndarray, class_names: Sequence[str], title: str
) -> Figure:
    """Draws a confusion matrix: a row for each true class, in fractions of its images.

    With up to 25 classes each cell has its count; with up to 120 each class its name,
    and with more its label. A class without images has a grey row.

    Args:
      matrix: int [classes, classes], images by true class and predicted class.
      class_names: one per label.
      title: the head of the figure.
    """
    count = len(class_names)
    examples = np.sum(matrix, axis=1, keepdims=True)
    fractions = np.ma.masked_invalid(
        np.divide(
            matrix, examples, where=examples > 0, out=np.full(matrix.shape, np.nan)
        )
    )
    counted, named = count <= _COUNTED_CLASSES, count <= _NAMED_CLASSES
    letters = max(1, *(min(len(name), _CLASS_LETTERS) for name in class_names))
    side = max(2.2, 0.45 * count if counted else 0.14 * min(count, _NAMED_CLASSES))
    margin = 0.6 + _LETTER * (letters if named else 4)
    size = 8 if counted else 6.5
    figure = Figure(
        figsize=(side + margin + 1.2, side + margin + 0.4),
        dpi=_DOTS_PER_INCH,
        layout="constrained",
    )
    figure.suptitle(
        _text(title, int(0.9 * (side + margin + 1.2) / _LETTER)), fontsize=9
    )
    axes = figure.subplots()
    # The square root of a fraction, so that a few mistakes are seen.
    mesh = axes.imshow(
        fractions,
        cmap=matplotlib.colormaps["Blues"].with_extremes(bad="0.85"),
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        interpolation="nearest",
    )
    if counted:
        for (row, column), images in np.ndenumerate(matrix):
            if images:
                axes.text(
                    column,
                    row,
                    f"{images}",
                    color="white" if fractions[row, column] > 0.4 else "black",
                    ha="center",
                    va="center",
                    fontsize=size,
                )
    if named:
        names = [_text(name, _CLASS_LETTERS, 1) for name in class_names]
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    unit = "" if named else " (label, from 0)"
    axes.set_xlabel(f"predicted class{unit}", fontsize=9)
    axes.set_ylabel(f"true class{unit}", fontsize=9)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.8, ticks=[0, 0.01, 0.1, 0.3, 0.6, 1])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("fraction of the true class", fontsize=8)
    return figure


def grad_cam_figure(
    images: np.ndarray,
    *,
    titles: Sequence[str],
    labels: Sequence[int] | None,
    results: Mapping[str, "GradCam"],
    class_names: Sequence[str],
    explained: str,
) -> Figure:
    """Draws a panel with a row per image: the image and each network's map.

    Below each map is the network's prediction, in red where it is wrong.

    Args:
      images: uint8 [B, h, w, c].
      titles: the titles of the rows.
      labels: the true labels, or None where they are not known.
      results: the maps of all images, by the name of the network.
      class_names: one per label.
      explained: the class that the maps explain, in words.
    """
    rows, columns = len(images), 1 + len(results)
    cell_height = _CELL * images.shape[1] / images.shape[2]
    heads = ["image", *(_network_label(name) for name in results)]
    titles = [_text(title, _TITLE_LETTERS) for title in titles]
    longest = max(len(line) for title in titles for line in title.split("\n"))
    left = 0.2 + _LETTER * longest
    width = left + columns * (_CELL + _GAP) + _GAP
    heading = textwrap.fill(
        f"Grad-CAM of the {explained} (red: the most of each map)",
        int(0.85 * width / _LETTER),
    )
    lines = 2 + heading.count("\n") + max(text.count("\n") for text in heads)
    head = 0.3 + _LINE * lines
    step = cell_height + _LINE + _GAP
    height = head + rows * step + 0.05
    figure = Figure(figsize=(width, height), dpi=_DOTS_PER_INCH)
    figure.text(0.5, 1 - 0.14 / height, heading, ha="center", va="top", fontsize=9)
    shown = np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
    shown = shown / 255

    for row, title in enumerate(titles):
        for column in range(columns):
            bottom = height - head - row * step - cell_height
            start = left + column * (_CELL + _GAP)
            axes = figure.add_axes(
                (start / width, bottom / height, _CELL / width, cell_height / height),
                xticks=[],
                yticks=[],
            )
            if row == 0:
                axes.set_title(heads[column], fontsize=8, pad=4)
            if column == 0:
                axes.imshow(shown[row], interpolation="nearest")
                axes.set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
                continue
            result = list(results.values())[column - 1]
            axes.imshow(_overlay(shown[row], result.maps[row]), interpolation="nearest")
            predicted = int(result.predicted[row])
            wrong = labels is not None and predicted != labels[row]
            name = _text(class_names[predicted], _CELL_LETTERS - 4, 1)
            axes.set_xlabel(
                f"{name} {result.probabilities[row]:.0%}",
                fontsize=8,
                labelpad=2,
                color="firebrick" if wrong else "black",
            )
    return figure


def _overlay(image: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Draws a map 0..1 [h, w] in colours over an image 0..1 [h, w, 3]."""
    # The image is shown in grey, so that its colours are not taken for the map's. No
    # black and no dark end of "jet": a dark place would look as if it had no weight.
    grey = 0.25 + 0.75 * image @ np.array([0.299, 0.587, 0.114])
    colors = matplotlib.colormaps["jet"](0.9 * strength)[..., :3]
    return 0.5 * grey[..., np.newaxis] + 0.5 * colors


def discriminator_figure(health: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the accuracy of each discriminator over the epochs.

    Args:
      health: the result of `discriminator_health`.
    """
    figure = Figure(
        figsize=(4.2 * len(health), 3.4), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    figure.suptitle("Accuracy of the discriminators in training", fontsize=11)
    grid = figure.subplots(1, len(health), squeeze=False, sharey=True)[0]
    for axes, peer in zip(grid, health, strict=True):
        axes.axhline(0.5, color="0.6", linewidth=0.8, linestyle="--")
        for key, label, color in (
            ("real", "another's maps (real)", "tab:blue"),
            ("fake", "own maps (fake)", "tab:orange"),
            ("accuracy", "both", "black"),
        ):
            # A single epoch makes no line.
            axes.plot(
                peer["epochs"],
                np.array(peer[key], np.float64),
                label=label,
                color=color,
                linewidth=1.2,
                marker="o" if len(peer["epochs"]) < 30 else None,
                markersize=3,
            )
        title = f"{peer['peer']} ({peer['name']}): {peer['state']}"
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(-0.03, 1.03)
        axes.tick_params(labelsize=8)
        axes.grid(color="0.92")
    grid[0].set_ylabel("fraction right", fontsize=9)
    grid[-1].legend(fontsize=7, loc="best")
    return figure


def png_bytes(figure: Figure) -> bytes:
    """Returns the content of a PNG file with a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _network_label(name: str) -> str:
    """Breaks the name of a network after that of its run."""
    run, slash, peer = name.rpartition("/")
    parts = [part for part in (run + slash, peer) if part]
    return "\n".join(_text(part, _CELL_LETTERS, 2) for part in parts)


def _text(text: str, letters: int, lines: int = 3) -> str:
    """Breaks a text into lines that fit, and escapes what cannot be drawn as it is."""
    broken = textwrap.wrap(one_line(text), letters) or [""]
    if len(broken) > lines:
        broken = [*broken[: lines - 1], broken[lines - 1][: letters - 1] + "…"]
    # Between two of these, Matplotlib would read a formula.
    return "\n".join(broken).replace("$", r"\$")
