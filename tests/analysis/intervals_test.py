"""Paired differences and their intervals against scipy's test and a printed table."""

import statistics

import numpy as np
import pytest
from scipy import stats

from afd_tf.analysis.intervals import Difference, paired_difference, sample_deviation

# Student's t, 0.975, of 1 to 5 degrees of freedom, as tables print it.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_it_is_the_interval_of_the_paired_t_test(count):
    generator = np.random.default_rng(count)
    first, second = generator.normal(0.7, 0.02, (2, count)).tolist()
    values = dict(enumerate(first))
    baseline = dict(enumerate(second))
    found = paired_difference(values, baseline)
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(0.95)
    assert found.seeds == list(range(count))
    assert found.mean == pytest.approx(np.mean(first) - np.mean(second))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.includes_zero == (test.pvalue >= 0.05)


@pytest.mark.parametrize("freedom", T)
def test_by_hand(freedom):
    count = freedom + 1
    values = {seed: float(seed**2) for seed in range(count)}
    found = paired_difference(values, dict.fromkeys(values, 0.0))
    half = T[freedom] * statistics.stdev(values.values()) / count**0.5
    assert found.high - found.mean == pytest.approx(half, rel=1e-3)
    assert found.mean - found.low == pytest.approx(half, rel=1e-3)


def test_seeds_are_paired_and_those_of_one_alone_do_not_count():
    found = paired_difference(
        {3: 0.9, 1: 0.5, 0: 0.4, 7: 0.1}, {0: 0.3, 1: 0.4, 3: 0.7, 8: 0.9}
    )
    assert found.seeds == [0, 1, 3]
    assert found.mean == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    # Seeds with a common difficulty: the difference is clear, the means are not.
    hard = {seed: seed / 10 for seed in range(6)}
    easier = {seed: value + 0.01 + 0.001 * (seed % 2) for seed, value in hard.items()}
    found = paired_difference(easier, hard)
    assert found.includes_zero is False
    unpaired = stats.ttest_ind(list(easier.values()), list(hard.values()))
    assert unpaired.pvalue > 0.9


def test_too_few_seeds_have_no_interval():
    assert paired_difference({0: 0.5}, {1: 0.5}) == Difference([])
    one = paired_difference({0: 0.5, 1: 0.2}, {0: 0.25})
    assert one == Difference([0], 0.25)
    assert one.includes_zero is None
    same = paired_difference({0: 0.5, 1: 0.7}, {0: 0.5, 1: 0.7})
    assert (same.low, same.high, same.includes_zero) == (0, 0, True)
    assert sample_deviation([0.5]) is None
    assert sample_deviation([1.0, 3.0]) == pytest.approx(2**0.5)
