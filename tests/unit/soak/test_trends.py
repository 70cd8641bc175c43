"""Trends and verdicts of series whose slope is known."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.trends import HOUR, Point, Trend, Verdict, trend

HALF_AN_HOUR = range(0, 1800, 10)
TIMES = 200

Noise = Callable[[random.Random], Callable[[], float]]


def _series(slope: float, noise: Callable[[], float]) -> list[Point]:
    return [(float(at), 100 + slope * at / HOUR + noise()) for at in HALF_AN_HOUR]


def _white(source: random.Random) -> Callable[[], float]:
    return lambda: source.gauss(0, 1)


def _correlated(source: random.Random) -> Callable[[], float]:
    """AR(1) noise with a correlation of 0.9."""
    last = 0.0

    def following() -> float:
        nonlocal last
        last = 0.9 * last + source.gauss(0, 1)
        return last

    return following


@pytest.mark.parametrize("noise", [_white, _correlated])
def test_noise_is_seldom_judged_as_growth(
    noise: Noise,
) -> None:
    trends = [trend(_series(0, noise(random.Random(seed)))) for seed in range(TIMES)]

    alarms = sum(each.verdict(0) == Verdict.GROWS for each in trends)
    assert alarms <= 0.05 * TIMES  # 2.5 % would be exact


@pytest.mark.parametrize("noise", [_white, _correlated])
def test_the_interval_holds_the_true_slope(
    noise: Noise,
) -> None:
    trends = [trend(_series(7, noise(random.Random(seed)))) for seed in range(TIMES)]

    assert sum(each.low <= 7 <= each.high for each in trends) >= 0.9 * TIMES


@pytest.mark.parametrize(("noise", "slope"), [(_white, 10), (_correlated, 150)])
def test_a_leak_is_seen_through_the_noise(noise: Noise, slope: float) -> None:
    trends = [trend(_series(slope, noise(random.Random(seed)))) for seed in range(TIMES)]

    assert sum(each.verdict(2) == Verdict.GROWS for each in trends) >= 0.9 * TIMES


def test_a_saw_is_no_growth() -> None:
    """Dead rows between two vacuums."""
    saw = [(float(at), float(at % 70)) for at in HALF_AN_HOUR]

    assert trend(saw).verdict(0) != Verdict.GROWS


def test_growth_during_the_warm_up_only_is_flat() -> None:
    filled = [(float(at), min(at / 10, 30.0)) for at in HALF_AN_HOUR]

    assert trend(filled) == Trend(30.0, 30.0, 0.0, 0.0, 0.0)
    assert trend(filled).verdict(0) == Verdict.FLAT


@pytest.mark.parametrize(
    ("slope", "low", "high", "verdict"),
    [
        (5, 1, 9, Verdict.GROWS),
        (5, -1, 11, Verdict.UNCLEAR),
        (1, 0.5, 3, Verdict.UNCLEAR),
        (1, 0.5, 1.5, Verdict.FLAT),
        (-5, -9, -1, Verdict.FLAT),
    ],
)
def test_growth_within_the_bound_is_flat(
    slope: float, low: float, high: float, verdict: Verdict
) -> None:
    assert Trend(0, 0, slope, low, high).verdict(2) == verdict


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(0.0, 1.0), (10.0, 2.0)]])
def test_too_few_samples_are_unclear(points: list[Point]) -> None:
    assert trend(points).verdict(0) == Verdict.UNCLEAR


@given(
    slope=st.floats(-1e6, 1e6),
    start=st.floats(-1e6, 1e6),
    samples=st.integers(10, 300),
    every=st.sampled_from([1.0, 10.0, 30.0]),
)
def test_a_straight_line_has_its_slope(
    slope: float, start: float, samples: int, every: float
) -> None:
    line = [(at * every, start + slope * at * every / HOUR) for at in range(samples)]

    result = trend(line)

    assert math.isclose(result.slope, slope, rel_tol=1e-6, abs_tol=1e-3)
    assert result.low <= result.slope <= result.high
