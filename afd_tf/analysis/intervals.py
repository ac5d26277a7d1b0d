"""Means over seeds, and intervals of differences that are paired by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import special

LEVEL = 0.95


class Difference(NamedTuple):
    """The mean of differences between two methods, run with the same seeds.

    Attributes:
      seeds: that both have, sorted.
      mean: of the differences; None without a common seed.
      low: lower end of the interval of the mean; None with fewer than two seeds.
      high: its upper end.
    """

    seeds: list[int]
    mean: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def includes_zero(self) -> bool | None:
        """Whether 0 is in the interval; None where there is no interval."""
        return None if self.low is None else self.low <= 0 <= self.high


def sample_deviation(values: Sequence[float]) -> float | None:
    """Returns the standard deviation with n - 1 in the denominator.

    None for fewer than two values.
    """
    return statistics.stdev(values) if len(values) > 1 else None


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> Difference:
    """Compares two methods, seed by seed.

    With d_i for the difference in each of the n seeds that both have, the interval is

        mean(d) ± t(0.975, n - 1) s(d) / √n

    where s is the sample standard deviation and t the quantile of Student's
    distribution: the interval of the paired t-test (Student 1908) with a coverage of
    95 %, where the differences are normally distributed.

    Args:
      values: by seed.
      baseline: by seed; from each of `values` that of its seed is subtracted.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return Difference(seeds)
    differences = [values[seed] - baseline[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    deviation = sample_deviation(differences)
    if deviation is None:
        return Difference(seeds, mean)
    count = len(seeds)
    quantile = float(special.stdtrit(count - 1, (1 + LEVEL) / 2))
    half = quantile * deviation / math.sqrt(count)
    return Difference(seeds, mean, mean - half, mean + half)
