"""Judge paired ratios: the median, how sure it is, and when more rounds are needed."""

from collections.abc import Sequence
from enum import StrEnum
from math import comb
from statistics import median
from typing import NamedTuple

ROUNDS_MIN, ROUNDS_MAX = 5, 15
SPREAD_MAX = 3.0
"""In percent of the median; a wider interval gives no verdict."""
COVERAGE_MIN = 1 - 2 / 2**ROUNDS_MIN
"""The coverage of the interval from the lowest to the highest of five values, 93.75 %."""


class Interval(NamedTuple):
    """A median with a distribution-free confidence interval of about 95 %."""

    low: float
    median: float
    high: float

    @property
    def spread(self) -> float:
        """Half the width, in percent of the median."""
        return 50 * (self.high - self.low) / self.median


class Verdict(StrEnum):
    """How this checkout compares with another one."""

    SAME = "same"
    LESS = "less"
    MORE = "more"
    NONE = "no verdict"


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median and the narrowest pair of order statistics with sufficient coverage."""
    ordered = sorted(values)
    count = len(ordered)
    outside, rank = 0.0, 0
    # The median lies below the value of this rank as often as a coin shows at most `rank` heads.
    while rank < (count - 1) // 2:
        outside += comb(count, rank) / 2**count
        if 1 - 2 * (outside + comb(count, rank + 1) / 2**count) < COVERAGE_MIN:
            break
        rank += 1
    return Interval(ordered[rank], median(ordered), ordered[count - 1 - rank])


def judge(ratios: Sequence[float]) -> Verdict:
    """Compare a ratio of costs with 1; fewer than five rounds or a wide interval give none."""
    if len(ratios) < ROUNDS_MIN:
        return Verdict.NONE
    interval = median_interval(ratios)
    if interval.spread > SPREAD_MAX:
        return Verdict.NONE
    if interval.low >= 1 - SPREAD_MAX / 100 and interval.high <= 1 + SPREAD_MAX / 100:
        return Verdict.SAME
    if interval.high < 1:
        return Verdict.LESS
    if interval.low > 1:
        return Verdict.MORE
    return Verdict.NONE


def needs_round(ratios: Sequence[float], *, rounds_max: int = ROUNDS_MAX) -> bool:
    """Return whether the ratios give no verdict yet, and another round is allowed."""
    return len(ratios) < rounds_max and judge(ratios) is Verdict.NONE
