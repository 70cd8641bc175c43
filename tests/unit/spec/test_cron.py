"""When a schedule is due."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import Invalid
from orchestrator.spec.cron import (
    SCHEDULE_NAMES,
    CatchUp,
    DueInstants,
    Jitter,
    Rule,
    check_rule,
    due_instants,
    instants_between,
    latest_until,
    next_after,
)

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
FIRST, LAST = (each.replace(tzinfo=UTC) for each in (datetime.min, datetime.max))  # noqa: DTZ901
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=each) for each in (1, 60, 3600, 86400))
AT_ONCE = Jitter(schedule_id=UUID(int=1), most=None)


def local_times(cron: str, timezone: str, start: str, end: str) -> list[str]:
    """The instants between two UTC days, in local time, with their offset."""
    first, last = (datetime.fromisoformat(f"{day}T00:00Z") for day in (start, end))
    where = ZoneInfo(timezone)
    instants = instants_between(Rule(cron=cron, timezone=timezone), first, last)
    return [f"{instant.astimezone(where):%d %H:%M %z}" for instant in instants]


@pytest.mark.parametrize(
    ("timezone", "start", "end", "cron", "expected"),
    [
        # Put forward: 02:00 -> 03:00 in Berlin and New York, 02:00 -> 02:30 on Lord Howe.
        (BERLIN, "2026-03-29", "2026-03-31", "30 2 * * *", ["29 03:00 +0200", "30 02:30 +0200"]),
        (
            BERLIN,
            "2026-03-29",
            "2026-03-30",
            "0,15 2,3 * * *",
            ["29 03:00 +0200", "29 03:15 +0200"],
        ),
        (NEW_YORK, "2026-03-08", "2026-03-09", "30 2 * * *", ["08 03:00 -0400"]),
        (LORD_HOWE, "2026-10-03", "2026-10-04", "15 2 * * *", ["04 02:30 +1100"]),
        (LORD_HOWE, "2026-10-03", "2026-10-04", "45 2 * * *", ["04 02:45 +1100"]),
        # Put back: 03:00 -> 02:00 in Berlin, 02:00 -> 01:00 in New York, 02:00 -> 01:30 there.
        (BERLIN, "2026-10-25", "2026-10-26", "30 2 * * *", ["25 02:30 +0200"]),
        (NEW_YORK, "2026-11-01", "2026-11-02", "30 1 * * *", ["01 01:30 -0400"]),
        (LORD_HOWE, "2026-04-04", "2026-04-05", "45 1 * * *", ["05 01:45 +1100"]),
    ],
)
def test_a_time_of_day_is_due_once_whatever_the_clocks_do(
    timezone: str, start: str, end: str, cron: str, expected: list[str]
) -> None:
    assert local_times(cron, timezone, start, end) == expected


@pytest.mark.parametrize(
    ("timezone", "start", "first", "last", "cron", "expected"),
    [
        (BERLIN, "2026-03-29", 0, 4, "30 * * * *", ["01:30", "03:30", "04:30", "05:30"]),
        (BERLIN, "2026-03-28", 23, 29, "0 */2 * * *", ["00:00", "04:00", "06:00"]),
        (BERLIN, "2026-10-25", 0, 4, "0 * * * *", ["02:00", "02:00", "03:00", "04:00"]),
        (BERLIN, "2026-10-24", 22, 28, "0 */2 * * *", ["00:00", "02:00", "02:00", "04:00"]),
        (NEW_YORK, "2026-11-01", 5, 8, "0 0-23 * * *", ["01:00", "01:00", "02:00"]),
        (LORD_HOWE, "2026-10-03", 15, 17, "30 * * * *", ["01:30", "02:30", "03:30"]),
        (LORD_HOWE, "2026-10-03", 15, 17, "*/20 */3 * * *", ["03:00", "03:20", "03:40"]),
        (LORD_HOWE, "2026-04-04", 14, 17, "30 * * * *", ["01:30", "01:30", "02:30"]),
    ],
)
def test_a_rule_for_every_hour_is_due_whenever_the_clock_shows_it(
    timezone: str, start: str, first: int, last: int, cron: str, expected: list[str]
) -> None:
    midnight = datetime.fromisoformat(f"{start}T00:00Z")
    rule = Rule(cron=cron, timezone=timezone)

    instants = instants_between(rule, midnight + first * HOUR, midnight + last * HOUR)

    assert [f"{each.astimezone(ZoneInfo(timezone)):%H:%M}" for each in instants] == expected


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
def test_a_name_is_the_rule_it_stands_for(name: str) -> None:
    check_rule(name)

    assert next_after(Rule(cron=name), NOON) == next_after(Rule(cron=SCHEDULE_NAMES[name]), NOON)


@pytest.mark.parametrize(
    ("cron", "detail"),
    [
        ("0 0 31 2 *", "no year has a day like this"),
        ("0 0 30 FEB *", "no year has a day like this"),
        ("0 0 */31 * 1#5", "no year has a day like this"),
        ("0 0 32 * *", "bad day-of-month; write minute, hour"),
        ("0 0 1 13 *", "bad month; write minute, hour"),
        ("60 * * * *", "bad minute"),
        ("*/0 * * * *", "bad minute"),
        ("* * * * * *", "this is not a cron rule; write minute, hour"),
        ("@reboot", "this is not a cron rule"),
        ("", "this is not a cron rule"),
        (f"{'9' * 5000} * * * *", "this is not a cron rule"),
        ("٣ * * * *", "this is not a cron rule"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_with_what_is_wrong(cron: str, detail: str) -> None:
    with pytest.raises(Invalid) as raised:
        check_rule(cron)

    (mistake,) = raised.value.mistakes
    assert mistake.pointer == "/cron"
    assert mistake.detail.startswith(detail)


@given(st.text(alphabet="0123456789*/,-#LW ABCDEFJMNORSTUVY@", max_size=30))
def test_any_text_is_a_rule_with_an_instant_or_refused(text: str) -> None:
    try:
        check_rule(text)
    except Invalid:
        return
    assert next_after(Rule(cron=text), NOON) is not None


@pytest.mark.parametrize(
    "name",
    [
        "Europe/Berlim", "", "../etc", "x" * 5000, "europe/berlin", " UTC", "UTC\n", "Europe",
        # What else the folder of a machine has.
        "localtime", "posixrules", "Factory", "posix/Europe/Berlin", "right/Europe/Berlin",
        "/usr/share/zoneinfo/Europe/Berlin", "/etc/localtime", "tzdata.zi", "CET-1CEST",
    ],
)  # fmt: skip
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as raised:
        next_after(Rule(cron="@daily", timezone=name), NOON)

    assert raised.value.mistakes[0].pointer == "/timezone"


@pytest.mark.parametrize("name", ["UTC", "Etc/GMT+5", "EST5EDT", "America/Indiana/Knox", "GB-Eire"])
def test_each_name_of_the_tz_database_is_a_time_zone(name: str) -> None:
    assert next_after(Rule(cron="@daily", timezone=name), NOON) is not None


def test_the_closest_time_zone_is_named() -> None:
    with pytest.raises(Invalid) as raised:
        next_after(Rule(cron="@daily", timezone="Europe/Berlim"), NOON)

    assert "did you mean Europe/Berlin?" in raised.value.mistakes[0].detail


def test_an_interval_is_elapsed_time_whatever_the_clocks_do() -> None:
    start = datetime(2026, 3, 28, 22, tzinfo=UTC)
    rule = Rule(every=6 * HOUR, anchor=start, timezone=BERLIN)

    assert list(instants_between(rule, start, start + DAY)) == [
        start + n * 6 * HOUR for n in range(4)
    ]


def test_an_interval_reaches_back_before_its_anchor() -> None:
    rule = Rule(every=7 * HOUR, anchor=NOON)

    assert next_after(rule, NOON - 10 * HOUR) == NOON - 7 * HOUR


def test_the_start_counts_and_the_end_does_not() -> None:
    rule = Rule(cron="0 * * * *", start_at=NOON, end_at=NOON + 2 * HOUR)

    assert list(instants_between(rule, NOON - DAY, NOON + DAY)) == [NOON, NOON + HOUR]


def test_once_is_due_once() -> None:
    rule = Rule(at=NOON)

    assert next_after(rule, NOON - SECOND) == NOON
    assert next_after(rule, NOON) is None


@pytest.mark.parametrize(
    "rule", [Rule(cron="@daily", timezone=LORD_HOWE), Rule(every=HOUR, anchor=NOON), Rule(at=NOON)]
)
@pytest.mark.parametrize("edge", [FIRST, LAST])
def test_the_ends_of_the_calendar_are_no_error(rule: Rule, edge: datetime) -> None:
    instants = [*islice(instants_between(rule, edge, LAST), 3)]

    assert all(each >= edge for each in instants)


@pytest.mark.parametrize(
    ("rule", "latest"),
    [
        (Rule(cron="@daily"), datetime(2026, 3, 5, tzinfo=UTC)),
        (Rule(cron="@daily", timezone="Asia/Tokyo"), datetime(2026, 3, 4, 15, tzinfo=UTC)),
        (Rule(cron="* * * * *"), datetime(2026, 3, 5, 12, 30, tzinfo=UTC)),
        (Rule(cron="0 0 1 * *"), datetime(2026, 3, 1, tzinfo=UTC)),
        (Rule(cron="0 0 29 2 *"), datetime(2024, 2, 29, tzinfo=UTC)),
        (Rule(cron="@daily", start_at=datetime(2026, 3, 6, tzinfo=UTC)), None),
        (
            Rule(cron="@daily", end_at=datetime(2026, 3, 5, tzinfo=UTC)),
            datetime(2026, 3, 4, tzinfo=UTC),
        ),
        (
            Rule(every=timedelta(days=9), anchor=datetime(2026, 3, 1, 1, tzinfo=UTC)),
            datetime(2026, 3, 1, 1, tzinfo=UTC),
        ),
        (
            Rule(every=timedelta(days=9), anchor=datetime(2026, 3, 6, tzinfo=UTC)),
            datetime(2026, 2, 25, tzinfo=UTC),
        ),
        (Rule(), None),
    ],
)
def test_the_latest_instant_is_the_last_one_before(rule: Rule, latest: datetime | None) -> None:
    assert latest_until(rule, datetime(2026, 3, 5, 12, 30, 0, 1, tzinfo=UTC)) == latest


def test_a_rule_has_a_text() -> None:
    assert str(Rule(cron="0 16 * * *", timezone=BERLIN)) == "cron(0 16 * * *, Europe/Berlin)"
    assert str(Rule(every=90 * MINUTE)) == "every(1h30m)"
    assert str(Rule(at=NOON)) == "at(2026-06-01T12:00:00Z)"


def test_jitter_delays_each_instant_by_its_own_part_and_always_the_same() -> None:
    jitter = Jitter(schedule_id=UUID(int=7), most=10 * MINUTE)
    delays = [jitter.delay(NOON + n * DAY) - (NOON + n * DAY) for n in range(200)]

    assert delays == [jitter.delay(NOON + n * DAY) - (NOON + n * DAY) for n in range(200)]
    assert all(timedelta(0) <= delay < 10 * MINUTE for delay in delays)
    assert 4 * MINUTE < sum(delays, timedelta(0)) / 200 < 6 * MINUTE
    assert Jitter(schedule_id=UUID(int=8), most=10 * MINUTE).delay(NOON) != jitter.delay(NOON)


def _due(catch_up: CatchUp, passed: timedelta, limit: int = 100) -> DueInstants:
    rule = Rule(every=HOUR, anchor=NOON)
    return due_instants(rule, NOON, NOON + passed, catch_up, AT_ONCE, limit=limit)


@pytest.mark.parametrize("catch_up", CatchUp)
def test_an_instant_that_has_just_come_is_due_whatever_the_catch_up(catch_up: CatchUp) -> None:
    assert _due(catch_up, SECOND) == ([NOON], [], NOON + HOUR)


def test_missed_instants_are_caught_up_by_the_policy() -> None:
    missed = [NOON, NOON + HOUR, NOON + 2 * HOUR]
    late, fresh = 2 * HOUR + 5 * MINUTE, 2 * HOUR + SECOND

    assert _due(CatchUp.ALL, late) == (missed, [], NOON + 3 * HOUR)
    assert _due(CatchUp.LATEST, late) == (missed[2:], missed[:2], NOON + 3 * HOUR)
    assert _due(CatchUp.NONE, late) == ([], missed, NOON + 3 * HOUR)
    assert _due(CatchUp.NONE, fresh) == (missed[2:], missed[:2], NOON + 3 * HOUR)


def test_a_long_absence_is_caught_up_in_bounded_parts() -> None:
    assert _due(CatchUp.ALL, DAY, limit=2) == ([NOON, NOON + HOUR], [], NOON + 2 * HOUR)
    assert _due(CatchUp.LATEST, DAY, limit=2) == ([], [NOON, NOON + HOUR], NOON + 2 * HOUR)


def test_an_instant_waits_for_its_jitter() -> None:
    jitter = Jitter(schedule_id=UUID(int=7), most=HOUR)
    rule, fires_at = Rule(cron="@daily"), jitter.delay(NOON)

    early = due_instants(rule, NOON, fires_at - SECOND, CatchUp.LATEST, jitter, limit=9)
    late = due_instants(rule, NOON, fires_at, CatchUp.LATEST, jitter, limit=9)

    assert (early.fire, early.next_at) == ([], NOON)
    assert late.fire == [NOON]


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(sorted)
    each = st.one_of(number.map(str), pair.map(lambda ends: f"{ends[0]}-{ends[1]}"))
    listed = st.lists(each, min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), listed, st.integers(1, high).map(lambda step: f"*/{step}"))


RULES = st.tuples(
    _field(0, 59), _field(0, 23), _field(1, 28), _field(1, 12), _field(0, 7)
).map(" ".join)  # fmt: skip
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1))  # noqa: DTZ001
ZONES = st.sampled_from(["UTC", BERLIN, NEW_YORK, LORD_HOWE, "Africa/Casablanca", "Asia/Kolkata"])


@settings(max_examples=150, deadline=None)
@given(RULES, MOMENTS)
def test_in_utc_the_instants_are_those_of_cronsim(cron: str, moment: datetime) -> None:
    rule, start = Rule(cron=cron), moment.replace(tzinfo=UTC)

    try:
        expected = next(CronSim(cron, start))
    except StopIteration:
        expected = None

    assert next_after(rule, start) == expected


@settings(max_examples=150, deadline=None)
@given(RULES, MOMENTS, ZONES)
def test_instants_are_in_order_from_any_moment(cron: str, moment: datetime, timezone: str) -> None:
    rule, start = Rule(cron=cron, timezone=timezone), moment.replace(tzinfo=UTC)
    instants = [*islice(instants_between(rule, start, start + 400 * DAY), 5)]

    assert instants == sorted(set(instants))
    for before, instant in zip([start - SECOND, *instants], instants, strict=False):
        assert next_after(rule, before + (instant - before) / 2) == instant
        assert next_after(rule, instant - timedelta(microseconds=1)) == instant
