"""Whether a series grows: the slope of autocorrelated samples, with a confidence interval.

Consecutive samples are correlated (a cache that fills, a vacuum every minute), so plain least
squares would give too narrow an interval. Samples are averaged by minute first, and the remaining
correlation of the averages widens the interval.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from statistics import NormalDist, fmean, linear_regression
from typing import NamedTuple

BLOCK = 60.0  # seconds
MIN_BLOCKS = 8  # a short soak has shorter blocks
WARM_UP = 0.2  # share of the time, in which pools, caches and heaps fill
HOUR = 3600.0

Point = tuple[float, float]  # seconds, value


class Verdict(StrEnum):
    """The judgement of a series."""

    FLAT = "flat"  # the growth is below the bound, with confidence
    UNCLEAR = "no trend"  # no growth is visible, but the series is too noisy or too short
    GROWS = "grows"


class Trend(NamedTuple):
    """First and last block after the warm-up; slope per hour with its 95 % interval."""

    first: float
    last: float
    slope: float
    low: float
    high: float

    def verdict(self, bound: float) -> Verdict:
        """The verdict for a maximum growth per hour."""
        if self.low > 0 and self.slope > bound:
            return Verdict.GROWS
        return Verdict.FLAT if self.high <= bound else Verdict.UNCLEAR


def trend(points: Sequence[Point]) -> Trend:
    """The trend of a series, in its unit per hour."""
    blocks = _blocks(_after_warm_up(points))
    if len(blocks) < 4:
        value = points[-1][1] if points else math.nan
        return Trend(value, value, 0.0, -math.inf, math.inf)
    times, values = zip(*blocks, strict=True)
    slope, start = linear_regression(times, values)
    residuals = [value - start - slope * time for time, value in blocks]
    margin = _margin(times, residuals)
    return Trend(
        values[0], values[-1], slope * HOUR, (slope - margin) * HOUR, (slope + margin) * HOUR
    )


def _after_warm_up(points: Sequence[Point]) -> list[Point]:
    if not points:
        return []
    begun, ended = points[0][0], points[-1][0]
    return [point for point in points if point[0] >= begun + WARM_UP * (ended - begun)]


def _blocks(points: Sequence[Point]) -> list[Point]:
    """The means of equal time spans."""
    if len(points) < 2:
        return []
    begun, span = points[0][0], points[-1][0] - points[0][0]
    count = min(max(MIN_BLOCKS, round(span / BLOCK)), len(points))
    by_block: dict[int, list[Point]] = {}
    for point in points:
        block = min(int((point[0] - begun) / span * count), count - 1)
        by_block.setdefault(block, []).append(point)
    return [(fmean(t for t, _ in block), fmean(v for _, v in block)) for block in by_block.values()]


def _margin(times: Sequence[float], residuals: Sequence[float]) -> float:
    """Half the width of the slope's interval."""
    count, middle = len(times), fmean(times)
    spread = sum((time - middle) ** 2 for time in times)
    correlation = _correlation(residuals)
    inflation = (1 + correlation) / (1 - correlation)
    freedom = max(count / inflation - 2, 1.0)
    error = math.sqrt(sum(residual**2 for residual in residuals) / (count - 2) / spread * inflation)
    return _students_t(freedom) * error


def _correlation(residuals: Sequence[float]) -> float:
    """Lag-1 autocorrelation, corrected for its bias with few blocks; 0 to 0.9."""
    square = sum(residual**2 for residual in residuals)
    if square == 0:
        return 0.0
    raw = sum(a * b for a, b in pairwise(residuals)) / square
    count = len(residuals)
    return min(max((raw * count + 2) / max(count - 4, 1), 0.0), 0.9)


def _students_t(freedom: float) -> float:
    """The 97.5 % quantile, by the Cornish-Fisher expansion around the normal one."""
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
