"""Formats of durations, sizes and rates."""

import pytest

from api.contracts.mindzie import formatting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (-3, "0 seconds"),
        (1.9, "1 second"),
        (512, "8 minutes 32 seconds"),
        (1380, "23 minutes"),
        (3900, "1 hour 5 minutes"),
        (3905, "1 hour 5 minutes"),
        (2 * 86400 + 7200, "2 days 2 hours"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0, "0-1 seconds"),
        (2, "1-3 seconds"),
        (60, "50-75 seconds"),
        (50 * 60, "45-60 minutes"),
        (5 * 3600, "4-6 hours"),
        (3 * 86400, "2-4 days"),
    ],
)
def test_an_estimate_is_a_span(seconds: float | None, text: str) -> None:
    assert formatting.between(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (812, "812 B"), (1024, "1 KB"), (2_254_857_830, "2.1 GB"), (2**70, "1048576 PB")],
)
def test_a_size_has_one_decimal_at_most(count: int, text: str) -> None:
    assert formatting.size(count) == text


def test_rates() -> None:
    assert formatting.rate(2500, 2) == "1250 records/second"
    assert formatting.rate(5, 0) == "0 records/second"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0, "0 seconds"),
        (0.003, "0.1 seconds"),
        (1, "1 second"),
        (59.97, "1 minute"),
        (252, "4.2 minutes"),
        (1380, "23 minutes"),
        (1110, "18.5 minutes"),
        (5400, "1.5 hours"),
        (3 * 86400, "3 days"),
    ],
)
def test_an_average_is_one_number_with_a_tenth(seconds: float | None, text: str) -> None:
    assert formatting.average(seconds) == text
