"""When a schedule is due. Pure: the same rule and moment always give the same instants.

A cron rule is local time in its time zone:

- A time that is skipped when the clock is put forward is due once, at the moment of the change.
- A time that occurs twice when the clock is put back is due once, the first time.
- A rule for every hour, or with a step in its hours (`0 * * * *`, `*/10 */2 * * *`), is due
  whenever the clock shows such a time: not when it is skipped, and both times when it repeats.

An interval is elapsed time. Instants are at or after `start_at` and before `end_at`, so that
consecutive ranges share none.

cronsim parses the fields and matches days. Its iteration is not used: where the clock changes by
half an hour it loses times, and in a repeated hour it goes back.
"""

import enum
import hashlib
from bisect import bisect_right
from calendar import monthrange
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field

from orchestrator.errors import Invalid, Mistake
from orchestrator.hints import closest
from orchestrator.spec.durations import format_duration
from orchestrator.work_limits import take_step

SCHEDULE_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
LATE_AFTER = timedelta(seconds=60)  # an instant that fires later than this was missed
_HINT = (
    "write minute, hour, day of month, month and day of week, as in `0 16 * * 1-5`, or one of "
    + ", ".join(SCHEDULE_NAMES)
)
_NEVER = "no year has a day like this"
_NEW_YEAR = datetime(2000, 1, 1)  # noqa: DTZ001 - the wall clock has no zone
_MAX_LENGTH = 200  # characters
_FIELDS = 5
_MAX_DAYS = 366 * 50  # searched; within them every date falls on every weekday
_TICK = timedelta(microseconds=1)
_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)
_LOOK_BACK = [timedelta(hours=1), *(timedelta(days) for days in (1, 32, 366, 5 * 366))]


class CatchUp(enum.StrEnum):
    """What to do with instants that were missed."""

    NONE = "none"
    LATEST = "latest"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The instants of a schedule; without cron, every and at there are none."""

    cron: str | None = None
    timezone: str = "UTC"
    every: timedelta | None = None
    anchor: datetime | None = None  # an instant of `every`, from which the others are counted
    at: datetime | None = None
    start_at: datetime | None = None  # inclusive
    end_at: datetime | None = None  # exclusive

    def __str__(self) -> str:
        if self.cron is not None:
            return f"cron({self.cron}, {self.timezone})"
        if self.every is not None:
            return f"every({format_duration(self.every)})"
        return f"at({self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ})" if self.at else "never"


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Delays each instant of a schedule by a part of `most` that depends on the instant only."""

    schedule_id: UUID
    most: timedelta | None

    def delay(self, instant: datetime) -> datetime:
        """When the instant fires."""
        if not self.most:
            return instant
        seed = repr(instant.timestamp()).encode()
        digest = hashlib.blake2b(seed, key=self.schedule_id.bytes, digest_size=8).digest()
        try:
            return instant + self.most * (int.from_bytes(digest) / 2**64)
        except OverflowError:
            return instant


class DueInstants(NamedTuple):
    """The instants to act upon now, and the next one."""

    fire: list[datetime]
    skip: list[datetime]
    next_at: datetime | None


def due_instants(
    rule: Rule, next_at: datetime, now: datetime, catch_up: CatchUp, jitter: Jitter, *, limit: int
) -> DueInstants:
    """What to do with the instants since `next_at`; at most `limit` of them, the oldest first."""
    due: list[datetime] = []
    coming: datetime | None = next_at
    while coming is not None and jitter.delay(coming) <= now and len(due) < limit:
        due.append(coming)
        coming = next_after(rule, coming)
    if catch_up == CatchUp.ALL or not due:
        return DueInstants(due, [], coming)
    *older, latest = due
    more = coming is not None and jitter.delay(coming) <= now
    if more or (catch_up == CatchUp.NONE and now - jitter.delay(latest) > LATE_AFTER):
        return DueInstants([], due, coming)
    return DueInstants([latest], older, coming)


def instants_between(rule: Rule, start: datetime, end: datetime) -> Iterator[datetime]:
    """The instants from `start`, inclusive, to `end`, exclusive, in order."""
    try:
        moment: datetime | None = next_after(rule, start - _TICK)
    except OverflowError:  # nothing is before the first moment of all
        moment = next_after(rule, start)
    while moment is not None and moment < end:
        yield moment
        moment = next_after(rule, moment)


def next_after(rule: Rule, moment: datetime) -> datetime | None:
    """The first later instant, in UTC, or None. Raises Invalid for an unknown time zone."""
    moment = moment.astimezone(UTC)
    try:
        if rule.start_at is not None and rule.start_at > moment:
            moment = rule.start_at.astimezone(UTC) - _TICK
        instant = _next_after(rule, moment)
    except OverflowError:  # the calendar ends with the year 9999
        return None
    return instant if instant and (rule.end_at is None or instant < rule.end_at) else None


def latest_until(rule: Rule, moment: datetime) -> datetime | None:
    """The latest instant up to a moment, of a cron rule one of the last five years."""
    spans: Sequence[timedelta] = _LOOK_BACK
    if rule.every is not None and rule.anchor is not None:
        spans = [(moment - rule.anchor) % rule.every]
    for span in spans:
        *_, latest = None, *instants_between(rule, moment - span, moment + _TICK)
        if latest is not None:
            return latest
    return None


def check_rule(cron: str) -> None:
    """Raises Invalid for a text that is no cron rule, or one that is never due."""
    fields = SCHEDULE_NAMES.get(cron, cron).split()
    if len(cron) > _MAX_LENGTH or not cron.isascii() or len(fields) != _FIELDS:
        raise _invalid_cron(f"this is not a cron rule; {_HINT}")
    try:
        parsed = _parse(cron)
    except CronSimError as error:
        raise _invalid_cron(_parse_error(fields, error)) from None
    if next(_wall_times(parsed, _NEW_YEAR), None) is None:
        raise _invalid_cron(_NEVER)


@cache
def read_timezone(name: str) -> ZoneInfo:
    """A time zone by its name in the tz database. Raises Invalid with the closest name."""
    if name not in _zones():
        near = closest(name, _zones())
        hint = f"did you mean {near}?" if near else "write it as in Europe/Berlin, or UTC"
        mistake = Mistake("/timezone", f"not in the tz database; {hint}")
        raise Invalid("there is no such time zone", mistake)
    return ZoneInfo(name)


class _Parsed(NamedTuple):
    days: CronSim
    times: list[time]  # of a day that matches
    every_occurrence: bool  # also the second one when the clock is put back


@lru_cache(maxsize=1024)
def _parse(cron: str) -> _Parsed:
    text = SCHEDULE_NAMES.get(cron, cron)
    days = CronSim(text, _NEW_YEAR)
    times = [time(hour, minute) for hour in sorted(days.hours) for minute in sorted(days.minutes)]
    return _Parsed(days, times, "/" in text.split()[1] or len(days.hours) == 24)


def _next_after(rule: Rule, moment: datetime) -> datetime | None:
    if rule.cron is not None:
        parsed, where = _parse(rule.cron), read_timezone(rule.timezone)
        next_time = _next_occurrence if parsed.every_occurrence else _next_time_of_day
        return next_time(parsed, where, moment)
    if rule.every is not None and rule.anchor is not None:
        passed = (moment - rule.anchor) // rule.every
        return (rule.anchor + (passed + 1) * rule.every).astimezone(UTC)
    return rule.at.astimezone(UTC) if rule.at is not None and rule.at > moment else None


def _next_time_of_day(parsed: _Parsed, where: ZoneInfo, moment: datetime) -> datetime | None:
    """The next time of day, each once: its first occurrence, or the change that skips it."""
    wall = moment.astimezone(where).replace(tzinfo=None)
    for local in _wall_times(parsed, wall):
        instant = local.replace(tzinfo=where).astimezone(UTC)
        if instant.astimezone(where).replace(tzinfo=None) != local:
            before = local.replace(tzinfo=where, fold=1).astimezone(UTC)
            instant = _clock_change(where, before, instant) or instant
        if instant > moment:
            return instant
    return None


def _next_occurrence(parsed: _Parsed, where: ZoneInfo, moment: datetime) -> datetime | None:
    """The next moment at which the local time matches."""
    offset = _offset(where, moment)
    wall = (moment + offset).replace(tzinfo=None)
    while (local := next(_wall_times(parsed, wall), None)) is not None:
        instant = local.replace(tzinfo=UTC) - offset
        changed = _clock_change(where, moment, instant)
        if changed is None:
            return instant
        # None before the change. Continue with the new offset, under which one may be due at once.
        moment, offset = changed, _offset(where, changed)
        wall = (changed + offset - _SECOND).replace(tzinfo=None)
    return None


def _wall_times(parsed: _Parsed, after: datetime) -> Iterator[datetime]:
    """The local times that match, without their zone, later than `after`."""
    first = after.date().toordinal()
    start = bisect_right(parsed.times, after.time())
    ordinal, last = first, min(first + _MAX_DAYS, date.max.toordinal())
    while ordinal <= last:
        take_step()
        day = date.fromordinal(ordinal)
        if day.month not in parsed.days.months:
            ordinal += monthrange(day.year, day.month)[1] - day.day + 1
            continue
        if parsed.days.match_day(day):
            for each in parsed.times[start if ordinal == first else 0 :]:
                yield datetime.combine(day, each)
        ordinal += 1


def _clock_change(where: ZoneInfo, lower: datetime, upper: datetime) -> datetime | None:
    """The first moment after `lower`, up to `upper`, at which the offset changes."""
    before = _offset(where, lower)
    while lower < upper:
        later = min(lower + _DAY, upper)
        if _offset(where, later) != before:
            return _bisect(where, lower, later)
        lower = later
    return None


def _bisect(where: ZoneInfo, lower: datetime, upper: datetime) -> datetime:
    before = _offset(where, lower)
    lower, upper = lower.replace(microsecond=0), upper + (-upper.microsecond % 10**6) * _TICK
    while upper - lower > _SECOND:  # clocks change on whole seconds
        middle = lower + (upper - lower) // _SECOND // 2 * _SECOND
        lower, upper = (middle, upper) if _offset(where, middle) == before else (lower, middle)
    return upper


def _offset(where: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(where).utcoffset() or timedelta(0)


def _parse_error(fields: list[str], error: CronSimError) -> str:
    """The detail for fields that cronsim refused."""
    if str(error) == Field.DAY.msg():
        with suppress(CronSimError):
            CronSim(" ".join([*fields[:3], "*", fields[4]]), _NEW_YEAR)
            return _NEVER  # good in another month
    return f"{str(error).lower()}; {_HINT}"


def _invalid_cron(detail: str) -> Invalid:
    return Invalid("the cron rule cannot be used", Mistake("/cron", detail))


@cache
def _zones() -> frozenset[str]:
    """The names of the tz database; a machine's folder has others, such as `localtime`."""
    names = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()
    return frozenset(names) - {"Factory"}  # the zone of a machine without one
