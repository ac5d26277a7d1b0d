"""Calibration: whether a network is right as often as its probabilities say."""

from typing import NamedTuple

import numpy as np

from afd_tf.analysis import svg

BINS = 15


class Calibration(NamedTuple):
    """The confidence of a network beside its accuracy, in bins of equal width.

    Attributes:
      counts: int [bins], the images whose confidence is in the bin ((b - 1) / bins,
        b / bins].
      confidence: float64 [bins], the mean confidence of these images, 0..1; NaN in an
        empty bin.
      accuracy: float64 [bins], the fraction of them that is classified correctly; NaN
        in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float:
        """The expected calibration error, 0..1.

        The mean over all images of their bin's |accuracy - confidence| (Guo et al.
        2017, arXiv 1706.04599, equation 5).
        """
        filled = self.counts > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float(np.sum(self.counts[filled] * gaps) / np.sum(self.counts))


def calibration(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> Calibration:
    """Sorts images into bins by the probability of the predicted class.

    Args:
      confidence: float [N], the probability of the predicted class, 0..1.
      correct: bool [N], whether that is the label; at least one.
      bins: number of bins.
    """
    confidence = np.asarray(confidence, np.float64)
    edges = np.linspace(0, 1, bins + 1)
    # Rounding may take a probability a little above 1.
    places = np.clip(np.digitize(confidence, edges, right=True), 1, bins) - 1
    counts = np.bincount(places, minlength=bins)

    def means(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(places, weights=values, minlength=bins)
        return np.divide(sums, counts, where=counts > 0, out=np.full(bins, np.nan))

    return Calibration(counts, means(confidence), means(np.asarray(correct, float)))


def reliability_diagram(measured: Calibration, title: str) -> str:
    """Draws accuracy over confidence as an <svg> element; the diagonal is ideal.

    Args:
      measured: the result of `calibration`.
      title: the network and its error.
    """
    bins = len(measured.counts)
    filled = measured.counts > 0
    lefts = np.arange(bins)[filled] / bins
    with svg.drawing(f"Reliability diagram of {title}", (3.4, 3.1)) as drawing:
        axes = drawing.axes
        width = 1 / bins
        accuracy = measured.accuracy[filled]
        axes.bar(lefts, accuracy, width, align="edge", color="#3b82c4", alpha=0.75)
        axes.plot([0, 1], [0, 1], "--", color="#d9772b", linewidth=1.2)
        axes.plot(
            measured.confidence[filled], accuracy, "o", color="#d9772b", markersize=3
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
        axes.set_title(title, fontsize=9)
    return drawing.text
