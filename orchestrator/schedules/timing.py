"""When a schedule is due next, and what in its rule does not go together."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from orchestrator.errors import Invalid, Mistake
from orchestrator.models import Schedule, ScheduleType
from orchestrator.spec import cron
from orchestrator.spec.cron import Jitter, Rule
from orchestrator.states import FINAL_RUNS

MIN_INTERVAL = timedelta(seconds=1)  # interval
MAX_JITTER = timedelta(days=1)
# What a schedule of a type must have, and one of another type must not.
_BELONGS: Mapping[str, ScheduleType] = {
    "cron": ScheduleType.CRON,
    "every": ScheduleType.INTERVAL,
    "at": ScheduleType.ONCE,
    "after_workflow": ScheduleType.EVENT,
    "after_states": ScheduleType.EVENT,
}
TIMED = frozenset({ScheduleType.CRON, ScheduleType.INTERVAL, ScheduleType.ONCE})


def timing_rule(schedule: Schedule) -> Rule:
    """When it is due."""
    return Rule(
        cron=schedule.cron,
        timezone=schedule.timezone,
        every=schedule.every,
        anchor=schedule.start_at or schedule.created_at,
        at=schedule.at,
        start_at=schedule.start_at,
        end_at=schedule.end_at,
    )


def default_window(schedule: Schedule) -> Rule:
    """When it would be due without a start and an end."""
    return replace(timing_rule(schedule), start_at=None, end_at=None)


def timing_jitter(schedule: Schedule) -> Jitter:
    """How its instants are delayed."""
    return Jitter(schedule_id=schedule.id, most=schedule.jitter)


def schedule_next(schedule: Schedule, moment: datetime) -> None:
    """Let the first instant after a moment be the next one."""
    next_instant(
        schedule, cron.next_after(timing_rule(schedule), moment) if schedule.active else None
    )


def next_instant(schedule: Schedule, next_at: datetime | None) -> None:
    """Let this instant be the next one."""
    schedule.next_at = next_at
    schedule.fires_at = None if next_at is None else timing_jitter(schedule).delay(next_at)


def check_timing(schedule: Schedule) -> None:
    """Raises Invalid, with every mistake that can be told at once."""
    mistakes = [*_misplaced(schedule), *_out_of_range(schedule)]
    if mistakes:
        raise Invalid("the schedule cannot be used", *mistakes)
    cron.read_timezone(schedule.timezone)
    if schedule.cron is not None:
        cron.check_rule(schedule.cron)


def check_has_instants(schedule: Schedule, moment: datetime) -> None:
    """Raises Invalid for a rule that has no instant any more."""
    if schedule.type in TIMED and cron.next_after(timing_rule(schedule), moment) is None:
        pointer, told = "/end_at", "no instant lies before it and in the future"
        if schedule.end_at is None:
            pointer = "/at" if schedule.type == ScheduleType.ONCE else "/start_at"
            told = "must lie in the future" if pointer == "/at" else "no instant comes after it"
        raise Invalid("the schedule would never be due", Mistake(pointer, told))


def _misplaced(schedule: Schedule) -> list[Mistake]:
    mistakes = []
    for name, type in _BELONGS.items():
        given = getattr(schedule, name)
        if schedule.type == type and given is None:
            mistakes.append(Mistake(f"/{name}", f"a schedule of type {type} needs it"))
        if schedule.type != type and given is not None:
            told = f"belongs to a schedule of type {type}, and this is of type {schedule.type}"
            mistakes.append(Mistake(f"/{name}", told))
    return mistakes


def _out_of_range(schedule: Schedule) -> list[Mistake]:
    mistakes = []
    if schedule.every is not None and schedule.every < MIN_INTERVAL:
        mistakes.append(Mistake("/every", "must be at least 1s"))
    if schedule.jitter is not None and schedule.jitter > MAX_JITTER:
        mistakes.append(Mistake("/jitter", "must be at most 24h"))
    if schedule.start_at and schedule.end_at and schedule.end_at <= schedule.start_at:
        mistakes.append(Mistake("/end_at", "must be later than start_at"))
    if not FINAL_RUNS.issuperset(schedule.after_states or ()) or schedule.after_states == []:
        told = f"must name one or more of {', '.join(sorted(FINAL_RUNS))}"
        mistakes.append(Mistake("/after_states", told))
    return mistakes
