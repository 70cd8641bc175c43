"""Durations as text."""

from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.spec.durations import format_duration, parse_duration

TEN_YEARS = timedelta(days=3650)
MICROSECOND = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (6, timedelta(seconds=6)),
        (0.5, timedelta(milliseconds=500)),
        ("6", timedelta(seconds=6)),
        ("6.25", timedelta(seconds=6.25)),
        ("6s", timedelta(seconds=6)),
        (" 6s\n", timedelta(seconds=6)),
        ("500ms", timedelta(milliseconds=500)),
        ("250us", timedelta(microseconds=250)),
        ("2m", timedelta(minutes=2)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("1.5h", timedelta(hours=1, minutes=30)),
        ("0", timedelta(0)),
        ("87600h", TEN_YEARS),
    ],
)
def test_a_duration_is_read_as_a_person_means_it(written: str | float, meant: timedelta) -> None:
    assert parse_duration(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "-1", "+1", "-6s", "6 s", "1d", "1w", "1ns", "6S", ".5s", "5.s", "1.2.3s"),
        *("1e3", "1,5s", "soon", "s", "6ss", "PT6S", "³"),
        *(True, False, None, [6], {"seconds": 6}, -1, -0.5, float("nan"), float("inf")),
    ],
    ids=repr,
)
def test_an_invalid_duration_is_refused_with_examples(written: object) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 6, 6s, 500ms, 2m or 1h30m"):
        parse_duration(written)  # type: ignore[arg-type]


@pytest.mark.parametrize("written", ["87600h1us", 10**9, "525600001m"], ids=repr)
def test_nothing_lasts_longer_than_ten_years(written: str | int) -> None:
    with pytest.raises(ValueError, match="is longer than ten years"):
        parse_duration(written)


@pytest.mark.parametrize("written", ["9" * 400, "9" * 400 + "h", 10**5000], ids=["s", "h", "int"])
def test_a_number_beyond_every_float_is_refused_like_any_other(written: str | int) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_duration(written)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="0123456789.hmsu -+e٣"))
@example("9" * 310 + "." + "9" * 310 + "h")
def test_any_text_is_a_duration_up_to_ten_years_or_refused(text: str) -> None:
    try:
        duration = parse_duration(text)
    except ValueError:
        return

    assert timedelta(0) <= duration <= TEN_YEARS


@pytest.mark.parametrize("text", ["0", "250us", "500ms", "6s", "2m", "1h30m", "24h"])
def test_a_duration_is_written_the_way_a_person_would(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


@settings(max_examples=60, deadline=None)
@given(st.integers(0, TEN_YEARS // MICROSECOND).map(lambda count: count * MICROSECOND))
@example(timedelta(seconds=12.345678))
@example(timedelta(hours=1, microseconds=1))
@example(timedelta(seconds=59.999999))
def test_what_is_written_is_read_back_as_the_same_duration(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration
