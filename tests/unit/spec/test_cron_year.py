"""A thousand schedules through a year, fired by three schedulers that crash at random.

The expected instants are computed independently: for every quarter of an hour of the year, from the
local time in three zones, whose clocks are put forward and back within it.
"""

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from uuid import UUID
from zoneinfo import ZoneInfo

from orchestrator.spec.cron import CatchUp, Jitter, Rule, due_instants, next_after

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
QUARTER, MINUTE, HOUR = timedelta(minutes=15), timedelta(minutes=1), timedelta(hours=1)
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")  # the last by half an hour

# Minutes, hours, days of the week (0 is Monday), days of the month; hours None: every real one.
Shape = tuple[set[int], set[int] | None, set[int], set[int]]
ALL_DAYS, ALL_DATES = set(range(7)), set(range(1, 32))
SHAPES: dict[str, Shape] = {
    "30 2 * * 0": ({30}, {2}, {6}, ALL_DATES),  # clocks change on Sundays, between 1 and 3
    "15 2 * * 7": ({15}, {2}, {6}, ALL_DATES),
    "45 1 * * SUN": ({45}, {1}, {6}, ALL_DATES),
    "0 1,2,3 * * 0": ({0}, {1, 2, 3}, {6}, ALL_DATES),
    "0 9 * * 1": ({0}, {9}, {0}, ALL_DATES),
    "0 0 1 * *": ({0}, {0}, ALL_DAYS, {1}),
    "30 * 29 * *": ({30}, None, ALL_DAYS, {29}),  # includes the day Berlin skips an hour
    "30 */1 5 * *": ({30}, None, ALL_DAYS, {5}),  # includes the day Lord Howe repeats a half hour
    "45 23 * * *": ({45}, {23}, ALL_DAYS, ALL_DATES),
}
# Of twenty schedules: the cheap ones several times, and four intervals.
MIX = [*list(SHAPES)[:3] * 3, *list(SHAPES)[3:6], *list(SHAPES)[4:6], *list(SHAPES)[-3:]]


def test_every_instant_of_a_year_is_fired_once_although_schedulers_crash() -> None:
    schedules = [_schedule(number) for number in range(1000)]

    fired = _Year(schedules, random.Random(20261025)).run()

    expected = Counter(
        (each.number, instant) for each in schedules for instant in _expected(each.rule)
    )
    assert sum(expected.values()) > 50_000
    assert fired - expected == Counter(), "fired twice, or when it was not due"
    assert expected - fired == Counter(), "missed"


@dataclass
class _Schedule:
    """A row of the table."""

    number: int
    rule: Rule
    jitter: Jitter
    next_at: datetime | None

    @property
    def fires_at(self) -> datetime:
        return END if self.next_at is None else self.jitter.delay(self.next_at)


def _schedule(number: int) -> _Schedule:
    if number % 20 < len(MIX):
        rule = Rule(cron=MIX[number % 20], timezone=ZONES[number // 20 % len(ZONES)], end_at=END)
    else:
        rule = Rule(every=(3 + number % 7) * 11 * HOUR, anchor=START + number * MINUTE, end_at=END)
    jitter = Jitter(schedule_id=UUID(int=number), most=(number % 3) * 20 * MINUTE)
    return _Schedule(number, rule, jitter, next_after(rule, START - MINUTE))


@dataclass
class _Year:
    """The table, and three schedulers that read it, act on it, and may crash in between."""

    schedules: list[_Schedule]
    chance: random.Random
    firings: Counter[tuple[int, datetime]] = field(default_factory=Counter)
    back_at: list[datetime] = field(default_factory=lambda: [START] * 3)

    def run(self) -> Counter[tuple[int, datetime]]:
        waiting = [(each.fires_at, each.number) for each in self.schedules if each.next_at]
        heapq.heapify(waiting)
        while waiting and waiting[0][0] < END + timedelta(days=30):
            fires_at, number = heapq.heappop(waiting)
            schedule = self.schedules[number]
            if schedule.next_at is None:
                continue
            again_at = self.fire(schedule, max(fires_at, min(self.back_at)))
            heapq.heappush(waiting, (again_at, number))
        return self.firings

    def fire(self, schedule: _Schedule, now: datetime) -> datetime:
        """One or two running schedulers fire what is due; gives when to do so again."""
        alive = [at for at, back_at in enumerate(self.back_at) if back_at <= now]
        self.chance.shuffle(alive)
        del alive[1 + (self.chance.random() < 0.2) :]
        seen = schedule.next_at
        for at in alive:
            assert seen is not None
            decided = due_instants(schedule.rule, seen, now, CatchUp.ALL, schedule.jitter, limit=10)
            crashes = self.chance.random()
            if crashes < 0.01:  # before its commit: rolled back
                self.crash(at, now)
                continue
            if schedule.next_at == seen:  # the second to get the row lock sees the change
                self.firings.update((schedule.number, instant) for instant in decided.fire)
                schedule.next_at = decided.next_at
            if crashes > 0.99:  # after its commit, before anything else
                self.crash(at, now)
        return max(schedule.fires_at, now + timedelta(seconds=1))

    def crash(self, at: int, now: datetime) -> None:
        """One is down for a while; rarely all three are, for days."""
        if self.chance.random() < 0.02:
            self.back_at = [now + self.chance.randint(1, 72) * HOUR for _ in self.back_at]
        else:
            self.back_at[at] = now + self.chance.choice([5, 60, 3600]) * timedelta(seconds=1)


@cache
def _expected(rule: Rule) -> list[datetime]:
    if rule.every is not None and rule.anchor is not None:
        count = range(
            -(-(START - rule.anchor) // rule.every), (END - rule.anchor) // rule.every + 1
        )
        instants = (rule.anchor + each * rule.every for each in count)
        return [instant for instant in instants if START <= instant < END]
    assert rule.cron is not None
    minutes, hours, weekdays, dates = SHAPES[rule.cron]
    due, last = [], None
    for instant, wall, skipped, repeated in _quarters(rule.timezone):
        times = [wall] if hours is None else [*skipped, *([] if repeated else [wall])]
        for each in times:
            is_day = each.weekday() in weekdays and each.day in dates
            is_time = each.minute in minutes and (hours is None or each.hour in hours)
            if is_day and is_time and instant != last:
                last = instant
                due.append(instant)
    return due


@cache
def _quarters(timezone: str) -> list[tuple[datetime, datetime, list[datetime], bool]]:
    """Each quarter of an hour: its local time, the times skipped before it, whether it repeats."""
    quarters, where, before = [], ZoneInfo(timezone), None
    seen: set[datetime] = set()
    for number in itertools.count(-8):
        instant = START + number * QUARTER
        if instant >= END:
            return quarters
        wall = instant.astimezone(where).replace(tzinfo=None)
        step = int((wall - before) / QUARTER) if before else 1
        skipped = [wall - back * QUARTER for back in range(step - 1, 0, -1)]
        if instant >= START:
            quarters.append((instant, wall, skipped, wall in seen))
        seen.add(wall)
        before = wall
    return quarters
