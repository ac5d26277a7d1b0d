"""Similarity of the feature maps of several networks."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from afd_tf import data
from afd_tf.analysis.grad_cam import ImageSampler
from afd_tf.analysis.run_peers import RunPeer
from afd_tf.base.console import progress
from afd_tf.models import Peer

SPLIT = "test"
BATCH = 256

# Their names and meanings, as they are in similarity.json.
MEASURES = {
    "l1_mean_absolute_difference": "mean over images and elements of |F1 - F2|",
    "l2_mean_squared_difference": "mean over images and elements of (F1 - F2)^2",
    "cosine": "mean over images of the cosine of the flattened maps F1 and F2",
    "cka": "linear CKA of the flattened maps, from the unbiased HSIC_1 of batches",
}
_TITLES = ("L1", "L2", "cosine", "CKA")

# HSIC_1 divides by n (n - 3).
_MIN_IMAGES_FOR_CKA = 4

# A split is shuffled whole if it fits into these bytes, else as much of it as fits.
_SHUFFLED_BYTES = 1 << 30


def collect_statistics(
    dataset: data.Dataset,
    run_peers: Sequence[RunPeer],
    sampler: ImageSampler,
    seed: int,
) -> list[dict[str, Any]]:
    """Reads the test images once: compares feature maps, and samples images.

    Args:
      dataset: with the peers' shape of images.
      run_peers: the networks to compare; of a single one, nothing is computed.
      sampler: is updated with all images and labels.
      seed: makes the order of the images.

    Returns:
      see `FeatureComparison.pairs`.
    """
    peers = [each.peer for each in run_peers]
    comparison = FeatureComparison([peer.feature_shape for peer in peers])
    features = feature_function(peers, dataset.info.image_shape)
    with progress("feature maps", dataset.info.examples[SPLIT]) as bar:
        for batch in shuffled_batches(dataset, seed).as_numpy_iterator():
            images, labels = batch["image"], batch["label"]
            sampler.update(images, labels)
            if len(peers) > 1:
                comparison.update(features(images))
            bar.update(len(labels))
    return comparison.pairs()


def shuffled_batches(dataset: data.Dataset, seed: int) -> tf.data.Dataset:
    """Returns the test images, each once, in an order made from `seed`.

    A split may be sorted by class, and CKA needs batches drawn at random.

    Returns:
      elements as of `Dataset.evaluation_batches`, of 256 images or, at the end, fewer.
    """
    buffer = max(BATCH, _SHUFFLED_BYTES // math.prod(dataset.info.image_shape))
    return (
        dataset.evaluation_batches(SPLIT, batch_size=BATCH)
        .unbatch()
        # Without the images that fill up the last batch.
        .filter(lambda example: example["weight"] > 0)
        .shuffle(buffer, seed=seed)
        .batch(BATCH)
        .prefetch(1)
    )


def with_names(
    pairs: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the pairs of `FeatureComparison.pairs` with names for numbers."""
    return [
        {**pair, "networks": [names[number] for number in pair["networks"]]}
        for pair in pairs
    ]


def summary_lines(named_pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line of text with the measures of each pair of `with_names`."""
    lines = []
    for pair in named_pairs:
        values = ", ".join(
            f"{title} {pair[name]:.4g}"
            for title, name in zip(_TITLES, MEASURES, strict=True)
            if pair[name] is not None
        )
        note = f" ({pair['note']})" if pair["note"] else ""
        lines.append(f"{' and '.join(pair['networks'])}: {values}{note}")
    return lines


def feature_function(
    peers: Sequence[Peer], image_shape: Sequence[int]
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Returns a function that computes the `features` of all peers.

    It takes uint8 [B, h, w, c], for any B, and returns float32 [B, h', w', c'] of each
    peer.

    Args:
      peers: built peers.
      image_shape: (h, w, c) of the images.
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
    """Compares every two networks' feature maps of the same images, batch by batch.

    The measures are those of `MEASURES`. The first three need maps of one shape and
    are those of Table 7 of the AFD paper (arXiv 2002.01775); a map of zeros has a
    cosine of 0 to any other. CKA takes maps of any shapes. It is estimated as by
    Nguyen, Raghu & Kornblith (ICLR 2021, arXiv 2010.15327, equations 2 and 3): the
    unbiased HSIC_1 of every batch is averaged over the batches before the division.
    Batches are weighted by their number of images, which for batches of one size is
    the paper's plain mean; a batch of fewer than 4 images has no HSIC_1 and is left
    out of CKA alone. The estimator holds for batches drawn at random, not for those of
    a sorted split.

    Args:
      shapes: (h, w, c) of each network's maps.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]]):
        self._shapes = [tuple(shape) for shape in shapes]
        self._pairs = list(itertools.combinations(range(len(shapes)), 2))
        self._examples = 0
        # Sums over images of the three measures, for the pairs with equal shapes.
        self._sums = {
            pair: np.zeros(3)
            for pair in self._pairs
            if self._shapes[pair[0]] == self._shapes[pair[1]]
        }
        self._hsic = np.zeros([len(shapes), len(shapes)])

    def update(self, maps: Sequence[np.ndarray]) -> None:
        """Adds a batch.

        Args:
          maps: [B, h, w, c] of each network, in the order of `shapes`.
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
        if examples >= _MIN_IMAGES_FOR_CKA:
            # HSIC_1 does not change when all maps are shifted alike. With this shift,
            # maps that are the same for every image get an exact 0.
            shifted = [each - each[0] for each in flat]
            grams = np.stack([each @ each.T for each in shifted])
            self._hsic += examples * unbiased_hsic(grams)

    def pairs(self) -> list[dict[str, Any]]:
        """Returns the measures of every two networks.

        Returns:
          {"networks": (i, j), a float for each of `MEASURES`, "note"} for i < j. A
          measure that is not defined is None, and "note" says why.
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
            # The unbiased estimate from very few images may be below 0.
            lengths = self._hsic[first, first], self._hsic[second, second]
            if min(lengths) > 0:
                cka = float(self._hsic[first, second] / math.sqrt(math.prod(lengths)))
            else:
                notes.append(
                    "no CKA: too few images, or maps that hardly depend on them"
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

    With K and L of n images, their diagonals set to 0, it is:

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
