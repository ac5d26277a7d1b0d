"""Calibration, bin by bin."""

import numpy as np
import pytest

from afd_tf.analysis.calibration import BINS, calibration, reliability_diagram


def by_definition(confidence, correct, bins):
    """Equation 5 of Guo et al., image by image."""
    total = 0.0
    for number in range(bins):
        inside = [
            place
            for place, value in enumerate(confidence)
            if number / bins < value <= (number + 1) / bins
        ]
        if inside:
            accuracy = np.mean([correct[place] for place in inside])
            mean = np.mean([confidence[place] for place in inside])
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


def test_the_error_is_that_of_its_definition():
    generator = np.random.default_rng(0)
    confidence = generator.beta(3, 1, 500)
    correct = generator.random(500) < confidence**2
    found = calibration(confidence, correct)
    assert found.expected_error == pytest.approx(by_definition(confidence, correct, 15))
    assert found.expected_error > 0.05
    assert found.counts.sum() == 500 and len(found.counts) == BINS == 15
    # The mean over bins of both is that over images.
    filled = found.counts > 0
    assert np.sum((found.counts * found.accuracy)[filled]) == correct.sum()


def test_bounds_of_bins_and_a_calibrated_network():
    found = calibration([0.5, 0.5, 0.25, 0.75, 1.0, 1.0 + 1e-12], [1, 0, 0, 1, 1, 1], 4)
    # A bin has its upper bound.
    assert found.counts.tolist() == [1, 2, 1, 2]
    assert found.accuracy.tolist() == [0, 0.5, 1, 1]
    ideal = calibration([0.75] * 4 + [1.0], [1, 1, 1, 0, 1])
    assert ideal.expected_error == pytest.approx(0)
    assert np.isnan(ideal.accuracy[0])


def test_the_diagram_names_the_network():
    text = reliability_diagram(calibration([0.6, 0.9], [1, 0]), "a<b: ECE 65.00 %")
    assert text.startswith('<svg role="img" aria-label="Reliability diagram of a&lt;b')
    assert text.rstrip().endswith("</svg>")
