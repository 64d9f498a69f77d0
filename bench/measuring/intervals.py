"""Confidence intervals of medians, without assuming a distribution.

The k-th smallest and the k-th largest of n samples enclose the median of the distribution unless fewer than k samples
lie on one side of it, which is a matter of n tosses of a coin: with ``P(B < k) <= (1 - level) / 2`` for
``B ~ Binomial(n, 1/2)`` the interval holds the median with probability ``level``. Below six samples no such k exists
for 95 %, below eight none for 99 %: then the interval is the range of the samples, and promises less.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

LEVEL = 0.95
EXACT = 500
"""With more samples the binomial distribution is taken for a normal one."""


class Interval(NamedTuple):
    """What lies between two numbers."""

    low: float
    high: float

    def is_apart_from(self, other: Interval) -> bool:
        """Whether the two have nothing in common."""
        return self.high < other.low or other.high < self.low


def least_samples(level: float = LEVEL) -> int:
    """How many samples an interval needs to promise ``level``."""
    return 1 + math.ceil(-math.log2(1 - level))


def median_interval(samples: Sequence[float], level: float = LEVEL) -> Interval:
    """Where the median of the distribution lies that the samples come from.

    Raises:
        ValueError: there are no samples, or ``level`` is not between 0 and 1.

    Example:
        >>> median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 9.0, 8.0, 7.0])
        Interval(low=2.0, high=8.0)
    """
    if not samples:
        raise ValueError("samples must have at least one number, got none")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    ordered, n = sorted(samples), len(samples)
    k = max(1, _rank(n, level))
    return Interval(ordered[k - 1], ordered[n - k])


@lru_cache(maxsize=1024)
def _rank(n: int, level: float) -> int:
    """The largest k with ``P(B < k) <= (1 - level) / 2``; 0 if there is none."""
    if n > EXACT:
        return int(n / 2 - statistics.NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(n) / 2)
    k, ways = 0, 1  # ways: 2^n P(B <= k)
    while 2 * ways <= (1 - level) * 2**n:
        k += 1
        ways += math.comb(n, k)
    return k


def ratio_samples(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """The ratio of each round, of two that were measured in turns: what slows a round down slows both.

    Raises:
        ValueError: they do not have the same number of rounds.
    """
    if len(over) != len(under):
        raise ValueError(f"both must have the same rounds, got {len(over)} and {len(under)}")
    return [a / b for a, b in zip(over, under, strict=True)]


class Estimate(NamedTuple):
    """A median with its interval."""

    median: float
    interval: Interval


def estimate(samples: Sequence[float], level: float = LEVEL) -> Estimate:
    """The median of the samples, and where the distribution's lies."""
    return Estimate(statistics.median(samples), median_interval(samples, level))
