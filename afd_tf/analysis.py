"""What feature maps have in common, where networks look, how discriminators fared.

Functions of arrays, peers and metrics, and figures of what they return;
`afd_tf.analyze` is the main above them.
"""

import heapq
import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from afd_tf.models import Peer

MEASURES = {
    "l1_mean_absolute_difference": "mean over pictures and elements of |F1 - F2|",
    "l2_mean_squared_difference": "mean over pictures and elements of (F1 - F2)^2",
    "cosine": "mean over pictures of the cosine of the flattened maps F1 and F2",
    "cka": "linear CKA of the flattened maps, from the unbiased HSIC_1 of batches",
}

# HSIC_1 divides by n (n - 3).
_FEWEST_FOR_CKA = 4

# A discriminator that is right this often at the end of the run always wins.
_COLLAPSED = 0.99
# One that was never right more often than this did no better than chance, 0.5.
_LEARNED_NOTHING = 0.55

_DOTS_PER_INCH = 150
# Inches.
_CELL = 1.45
_GAP = 0.1
_LINE = 0.17
_LETTER = 0.075
# Letters of the small print that fit below or above a cell, and beside a row.
_CELL_LETTERS = 18
_TITLE_LETTERS = 12


def feature_function(
    peers: Sequence[Peer], image_shape: Sequence[int]
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Returns a function of uint8 [B, h, w, c], any B: all peers' `features`, float32.

    Args:
      peers: built peers.
      image_shape: (h, w, c) of the pictures.
    """

    # One trace for every batch size.
    @tf.function(
        input_signature=[tf.TensorSpec([None, *image_shape], tf.uint8)],
        autograph=False,
    )
    def features(images):
        return [
            tf.cast(peer(images, training=False).features, tf.float32) for peer in peers
        ]

    return lambda images: [maps.numpy() for maps in features(images)]


class FeatureComparison:
    """Compares every two networks' feature maps of the same pictures, batch by batch.

    What is measured is said in `MEASURES`: the first three, which need maps of one
    shape, are those of Table 7 of the AFD paper (arXiv 2002.01775); a map of zeros has
    a cosine of 0 to any other. CKA is for any shapes, and is estimated as Nguyen,
    Raghu & Kornblith do (ICLR 2021, arXiv 2010.15327, equations 2 and 3): unbiased
    HSIC_1 of every batch, averaged over the batches before the division. Batches count
    by their pictures, which for batches of one size is the paper's plain mean; one of
    fewer than 4 pictures has no HSIC_1 and is left out of CKA alone. The estimator is
    for batches drawn at random: those of a sorted split say something else.

    Args:
      shapes: (h, w, c) of each network's maps.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]]):
        self._shapes = [tuple(shape) for shape in shapes]
        self._pairs = list(itertools.combinations(range(len(shapes)), 2))
        self._examples = 0
        # Of the pairs with equal shapes: sums over pictures of the three measures.
        self._sums = {
            pair: np.zeros(3)
            for pair in self._pairs
            if self._shapes[pair[0]] == self._shapes[pair[1]]
        }
        self._hsic = np.zeros([len(shapes), len(shapes)])

    def update(self, maps: Sequence[np.ndarray]) -> None:
        """Adds a batch.

        Args:
          maps: of each network, in the order of `shapes`, [B, h, w, c].
        """
        flat = [each.reshape(len(each), -1).astype(np.float64) for each in maps]
        examples = len(flat[0])
        self._examples += examples
        norms = [np.linalg.norm(each, axis=1) for each in flat]
        for first, second in self._sums:
            difference = flat[first] - flat[second]
            products = np.sum(flat[first] * flat[second], axis=1)
            lengths = norms[first] * norms[second]
            cosines = products / np.where(lengths > 0, lengths, 1)
            self._sums[first, second] += (
                np.sum(np.mean(np.abs(difference), axis=1)),
                np.sum(np.mean(difference**2, axis=1)),
                np.sum(cosines),
            )
        if examples >= _FEWEST_FOR_CKA:
            # HSIC_1 stays what it is when all maps are shifted alike; maps that are
            # the same for every picture get an exact 0 so.
            shifted = [each - each[0] for each in flat]
            grams = np.stack([each @ each.T for each in shifted])
            self._hsic += examples * unbiased_hsic(grams)

    def pairs(self) -> list[dict[str, Any]]:
        """Returns the measures of every two networks.

        Returns:
          {"networks": (i, j), a value for each of `MEASURES`, "note"} for i < j; None
          is what cannot be had, and "note" says why.
        """
        results = []
        for first, second in self._pairs:
            notes = []
            if (first, second) in self._sums:
                means = (self._sums[first, second] / self._examples).tolist()
            else:
                means = [None, None, None]
                shapes = ("x".join(map(str, self._shapes[k])) for k in (first, second))
                notes.append(
                    f"maps of {' and '.join(shapes)}: only CKA compares unequal shapes"
                )
            cka = None
            # Unbiased, so of very few pictures it may be below 0.
            lengths = self._hsic[first, first], self._hsic[second, second]
            if min(lengths) > 0:
                cka = float(self._hsic[first, second] / math.sqrt(math.prod(lengths)))
            else:
                notes.append(
                    "no CKA: too few pictures, or maps that hardly depend on them"
                )
            results.append(
                {
                    "networks": (first, second),
                    **dict(zip(MEASURES, [*means, cka], strict=True)),
                    "note": "; ".join(notes) or None,
                }
            )
        return results


def unbiased_hsic(grams: np.ndarray) -> np.ndarray:
    """Returns HSIC_1 (Song et al. 2012) of every two kernel matrices.

    With K and L, their diagonals set to 0, of n pictures:

        (tr(KL) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1) / (n (n - 3))

    Args:
      grams: float64 [networks, n, n], symmetric, n of 4 or more.

    Returns:
      float64 [networks, networks].
    """
    count = grams.shape[1]
    off_diagonal = grams * (1 - np.eye(count))
    flat = off_diagonal.reshape(len(grams), -1)
    rows = off_diagonal.sum(axis=2)  # K1, [networks, n]
    totals = rows.sum(axis=1)
    sums = flat @ flat.T
    sums += np.outer(totals, totals) / ((count - 1) * (count - 2))
    sums -= 2 / (count - 2) * (rows @ rows.T)
    return sums / (count * (count - 3))


class PictureDraw:
    """Draws pictures from batches: of each group, all are equally likely.

    Args:
      quotas: how many pictures of each label; the label None stands for all labels
        together.
      seed: of the draw.
    """

    def __init__(self, quotas: Mapping[int | None, int], seed: int):
        self._quotas = dict(quotas)
        self._generator = np.random.default_rng(seed)
        # (key, picture, label): those with the smallest random keys so far.
        self._drawn = {label: [] for label in quotas}

    def update(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Takes part in the draw with uint8 [B, h, w, c] and int [B]."""
        keys = self._generator.random(len(labels))
        for label, quota in self._quotas.items():
            wanted = np.full(len(labels), True) if label is None else labels == label
            offered = zip(keys[wanted], images[wanted], labels[wanted], strict=True)
            self._drawn[label] = heapq.nsmallest(
                quota, [*self._drawn[label], *offered], key=lambda entry: entry[0]
            )

    def result(self) -> tuple[list[np.ndarray], list[int]]:
        """Returns pictures uint8 [h, w, c] and their labels, group after group.

        A group with too few pictures gives all that it has.
        """
        entries = [entry for drawn in self._drawn.values() for entry in drawn]
        return [image for _, image, _ in entries], [int(each) for *_, each in entries]


class GradCam(NamedTuple):
    """Where a network looks, and what it sees.

    Attributes:
      maps: float32 [B, h, w] of the pictures' size, 0..1.
      predicted: int [B], the likeliest class.
      probabilities: float32 [B], of that class.
    """

    maps: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


def grad_cam(
    peer: Peer, images: np.ndarray, classes: Sequence[int] | None = None
) -> GradCam:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) of a peer's `features` F.

    The map is ReLU(sum over channels k of weight_k F_k), the weight being the mean
    over positions of the gradient of the class's logit with respect to F_k; enlarged
    and scaled as `enlarge` says, so that maps of different pictures or networks
    compare in place, not in strength.

    Args:
      peer: a built peer.
      images: uint8 [B, h, w, c], raw pixels.
      classes: int [B], whose logits are explained; None takes the predicted ones.
    """
    features = tf.cast(peer(images, training=False).features, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(features)
        logits = peer.classify(features)
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        chosen = predicted if classes is None else tf.constant(classes, tf.int32)
        # A picture's logit depends on its own map alone.
        scores = tf.gather(logits, chosen, batch_dims=1)
    gradients = tape.gradient(scores, features)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))  # [B, h, w]
    return GradCam(
        maps=enlarge(maps.numpy(), images.shape[1:3]),
        predicted=predicted.numpy(),
        probabilities=np.max(tf.nn.softmax(logits).numpy(), axis=-1),
    )


def enlarge(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brings maps to a size, bilinearly, and then each one's largest value to 1.

    Args:
      maps: float32 [B, h, w], not negative.
      size: height and width to bring them to.

    Returns:
      float32 [B, *size], 0..1; a map of zeros stays one.
    """
    large = tf.image.resize(maps[..., np.newaxis], size)[..., 0].numpy()
    peaks = np.max(large, axis=(1, 2), keepdims=True)
    return large / np.where(peaks > 0, peaks, 1)


def discriminator_health(
    metrics: Sequence[Mapping[str, float]], names: Sequence[str]
) -> list[dict[str, Any]] | None:
    """Judges each peer's discriminator by how often it was right in training.

    Args:
      metrics: a run's epochs, as in `metrics.jsonl`; those that count have
        train/peer_<k>/discriminator_accuracy, perhaps with _real (on another's maps)
        and _fake (on the own maps), fractions.
      names: of all peers, in their order.

    Returns:
      for every peer with a discriminator {"peer": "peer_<k>", "name", "epochs",
      "accuracy", "real", "fake" (a value per epoch), "last_quarter" (mean accuracy of
      the last quarter of the epochs), "highest", "state": "collapsed", "learned
      nothing" or "in balance", "advice"}; None where no peer has one.
    """
    results = []
    for number, name in enumerate(names):
        peer = f"peer_{number}"
        key = f"train/{peer}/discriminator_accuracy"
        lines = [line for line in metrics if key in line]
        if not lines:
            continue
        accuracy = [line[key] for line in lines]
        last_quarter = float(np.mean(accuracy[-math.ceil(len(lines) / 4) :]))
        highest = max(accuracy)
        state, advice = _judgement(last_quarter, highest)
        results.append(
            {
                "peer": peer,
                "name": name,
                "epochs": [line["epoch"] for line in lines],
                "accuracy": accuracy,
                "real": [line.get(f"{key}_real") for line in lines],
                "fake": [line.get(f"{key}_fake") for line in lines],
                "last_quarter": last_quarter,
                "highest": highest,
                "state": state,
                "advice": advice,
            }
        )
    return results or None


def _judgement(last_quarter: float, highest: float) -> tuple[str, str]:
    """Returns a discriminator's state, and what to do about it."""
    if last_quarter >= _COLLAPSED:
        return "collapsed", (
            f"right about {last_quarter:.1%} of the maps in the last quarter of the "
            "run: the discriminator always wins, and what it then teaches the feature "
            "maps is likely to fade. A lower --afd_learning_rate or a higher "
            "--afd_weight_decay may hold it back; both act on the feature maps' side "
            "too, so see whether the peers' accuracy gains by it."
        )
    if highest <= _LEARNED_NOTHING:
        return "learned nothing", (
            f"never right about more than {highest:.1%} of the maps, where chance is "
            "50%: either the peers' maps cannot be told apart, or the discriminator "
            "learns too slowly. Where cosine or CKA is well below 1 they do differ: "
            "then try a higher --afd_learning_rate."
        )
    return "in balance", (
        f"right about {last_quarter:.1%} of the maps in the last quarter of the run, "
        f"about {highest:.1%} at most: it tells the maps apart, and not always."
    )


def similarity_figure(
    pairs: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Figure:
    """Draws CKA, and the cosine where some maps have one shape, of every two networks.

    Args:
      pairs: of `FeatureComparison.pairs`.
      names: of the networks.
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
    figure.suptitle("Similarity of feature maps, test pictures", fontsize=11)
    colors = matplotlib.colormaps["viridis"].with_extremes(bad="0.9")
    grid = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (key, title) in zip(grid, shown, strict=True):
        values = np.eye(len(names))
        for pair in pairs:
            first, second = pair["networks"]
            value = math.nan if pair[key] is None else pair[key]
            values[first, second] = values[second, first] = value
        picture = axes.imshow(values, cmap=colors, vmin=0, vmax=1)
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
    figure.colorbar(picture, ax=grid, shrink=0.8).ax.tick_params(labelsize=8)
    return figure


def grad_cam_figure(
    images: np.ndarray,
    *,
    titles: Sequence[str],
    labels: Sequence[int] | None,
    results: Mapping[str, GradCam],
    class_names: Sequence[str],
    explained: str,
) -> Figure:
    """Draws a panel: a row per picture, and in it the picture and each network's map.

    Below each map stands what the network predicts; in red where that is wrong.

    Args:
      images: uint8 [B, h, w, c].
      titles: of the rows.
      labels: the true ones, or None where nobody knows them.
      results: by the name of the network.
      class_names: one per label.
      explained: which class the maps are for, in words.
    """
    rows, columns = len(images), 1 + len(results)
    cell_height = _CELL * images.shape[1] / images.shape[2]
    heads = ["picture", *(_network_label(name) for name in results)]
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
    pictures = np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
    pictures = pictures / 255

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
                axes.imshow(pictures[row], interpolation="nearest")
                axes.set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
                continue
            seen = list(results.values())[column - 1]
            axes.imshow(
                _overlay(pictures[row], seen.maps[row]), interpolation="nearest"
            )
            predicted = int(seen.predicted[row])
            wrong = labels is not None and predicted != labels[row]
            name = _text(class_names[predicted], _CELL_LETTERS - 4, 1)
            axes.set_xlabel(
                f"{name} {seen.probabilities[row]:.0%}",
                fontsize=8,
                labelpad=2,
                color="firebrick" if wrong else "black",
            )
    return figure


def _overlay(picture: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Lays a map 0..1 [h, w] in colours over a picture 0..1 [h, w, 3]."""
    # The picture in grey, or its colours would pass for the map's; and never black,
    # nor the dark end of "jet", or a dark place would look unseen.
    grey = 0.25 + 0.75 * picture @ np.array([0.299, 0.587, 0.114])
    colors = matplotlib.colormaps["jet"](0.9 * strength)[..., :3]
    return 0.5 * grey[..., np.newaxis] + 0.5 * colors


def discriminator_figure(health: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the accuracy of each discriminator over the epochs.

    Args:
      health: of `discriminator_health`.
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


def _network_label(name: str) -> str:
    """Breaks the name of a network behind that of its run."""
    run, slash, peer = name.rpartition("/")
    parts = [part for part in (run + slash, peer) if part]
    return "\n".join(_text(part, _CELL_LETTERS, 2) for part in parts)


def _text(text: str, letters: int, lines: int = 3) -> str:
    """Breaks a text into lines that fit, and takes "$" for what it is."""
    broken = textwrap.wrap(text, letters) or [""]
    if len(broken) > lines:
        broken = [*broken[: lines - 1], broken[lines - 1][: letters - 1] + "…"]
    return "\n".join(broken).replace("$", r"\$")
