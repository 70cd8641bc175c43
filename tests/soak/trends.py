"""Whether a series grows: the slope of samples that depend on each other, and how sure it is.

Samples that follow each other are alike (a cache that fills, a vacuum that comes each minute), and
least squares on them would be far too sure. So they are averaged by the minute first, and what
the averages still have in common widens the interval.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from statistics import NormalDist, fmean, linear_regression
from typing import NamedTuple

BLOCK = 60.0  # seconds
FEWEST = 8  # blocks; a short soak has shorter ones
WARM_UP = 0.2  # of the time: pools, caches and heaps fill
HOUR = 3600.0

Point = tuple[float, float]  # seconds, value


class Verdict(StrEnum):
    """What can be said of a series."""

    FLAT = "flat"  # it surely grows by less than the bound
    UNCLEAR = (
        "no trend"  # nothing shows that it grows, but it was too noisy or too short to be sure
    )
    GROWS = "grows"


class Trend(NamedTuple):
    """How a series went after the warm-up; what is per hour is so with 95 % confidence."""

    first: float
    last: float
    slope: float
    low: float
    high: float

    def verdict(self, bearable: float) -> Verdict:
        """What that means when so much growth an hour would be borne."""
        if self.low > 0 and self.slope > bearable:
            return Verdict.GROWS
        return Verdict.FLAT if self.high <= bearable else Verdict.UNCLEAR


def trend(points: Sequence[Point]) -> Trend:
    """The trend of a series, in its unit an hour."""
    blocks = _blocks(_after_warm_up(points))
    if len(blocks) < 4:
        value = points[-1][1] if points else math.nan
        return Trend(value, value, 0.0, -math.inf, math.inf)
    times, values = zip(*blocks, strict=True)
    slope, start = linear_regression(times, values)
    rests = [value - start - slope * time for time, value in blocks]
    margin = _margin(times, rests)
    return Trend(
        values[0], values[-1], slope * HOUR, (slope - margin) * HOUR, (slope + margin) * HOUR
    )


def _after_warm_up(points: Sequence[Point]) -> list[Point]:
    if not points:
        return []
    begun, ended = points[0][0], points[-1][0]
    return [point for point in points if point[0] >= begun + WARM_UP * (ended - begun)]


def _blocks(points: Sequence[Point]) -> list[Point]:
    """The means of equal spans of time."""
    if len(points) < 2:
        return []
    begun, span = points[0][0], points[-1][0] - points[0][0]
    count = min(max(FEWEST, round(span / BLOCK)), len(points))
    found: dict[int, list[Point]] = {}
    for point in points:
        block = min(int((point[0] - begun) / span * count), count - 1)
        found.setdefault(block, []).append(point)
    return [(fmean(t for t, _ in block), fmean(v for _, v in block)) for block in found.values()]


def _margin(times: Sequence[float], rests: Sequence[float]) -> float:
    """Half of the slope's interval."""
    count, middle = len(times), fmean(times)
    spread = sum((time - middle) ** 2 for time in times)
    alike = _correlation(rests)
    wider = (1 + alike) / (1 - alike)
    freedom = max(count / wider - 2, 1.0)
    error = math.sqrt(sum(rest**2 for rest in rests) / (count - 2) / spread * wider)
    return _students_t(freedom) * error


def _correlation(rests: Sequence[float]) -> float:
    """Of a block with the next one; what few blocks make it seem too small is added."""
    square = sum(rest**2 for rest in rests)
    if square == 0:
        return 0.0
    seen = sum(a * b for a, b in pairwise(rests)) / square
    count = len(rests)
    return min(max((seen * count + 2) / max(count - 4, 1), 0.0), 0.9)


def _students_t(freedom: float) -> float:
    """The quantile of 97.5 %, by Fisher and Cornish's expansion around the normal one."""
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
