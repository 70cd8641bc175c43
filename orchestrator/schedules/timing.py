"""The timing rule of a schedule: its next instant, and checks of its fields."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from orchestrator.errors import Invalid, Mistake
from orchestrator.models import Schedule, ScheduleType
from orchestrator.spec import cron
from orchestrator.spec.cron import Jitter, Rule
from orchestrator.states import FINAL_RUNS

MIN_INTERVAL = timedelta(seconds=1)
MAX_JITTER = timedelta(days=1)
# Fields that schedules of one type require and the other types forbid.
_TYPE_OF_FIELD: Mapping[str, ScheduleType] = {
    "cron": ScheduleType.CRON,
    "every": ScheduleType.INTERVAL,
    "at": ScheduleType.ONCE,
    "after_workflow": ScheduleType.EVENT,
    "after_states": ScheduleType.EVENT,
}
TIMED = frozenset({ScheduleType.CRON, ScheduleType.INTERVAL, ScheduleType.ONCE})


def timing_rule(schedule: Schedule) -> Rule:
    """The rule that gives its instants."""
    names = ("cron", "timezone", "every", "at", "start_at", "end_at")
    anchor = schedule.start_at or schedule.created_at
    return Rule(anchor=anchor, **{name: getattr(schedule, name) for name in names})


def timing_jitter(schedule: Schedule) -> Jitter:
    """The delay of its instants."""
    return Jitter(schedule_id=schedule.id, most=schedule.jitter)


def schedule_next(schedule: Schedule, moment: datetime) -> None:
    """Set the next instant to the first one after a moment; None for an inactive schedule."""
    next_at = cron.next_after(timing_rule(schedule), moment) if schedule.active else None
    schedule.next_at, schedule.fires_at = next_at, fires_at(schedule, next_at)


def schedule_latest(schedule: Schedule, moment: datetime) -> None:
    """Let it fire its latest instant up to a moment, too, unless it has acted upon it already."""
    latest = None
    if schedule.active and schedule.type in (ScheduleType.CRON, ScheduleType.INTERVAL):
        latest = cron.latest_until(timing_rule(schedule), moment)
    if latest is not None and (schedule.last_at is None or latest > schedule.last_at):
        schedule.next_at, schedule.fires_at = latest, fires_at(schedule, latest)


def fires_at(schedule: Schedule, instant: datetime | None) -> datetime | None:
    """When an instant of the schedule, if there is one, fires."""
    return None if instant is None else timing_jitter(schedule).delay(instant)


def check_timing(schedule: Schedule) -> None:
    """Raises Invalid with all mistakes of the fields, or of the rule."""
    if mistakes := list(_mistakes(schedule)):
        raise Invalid("the schedule cannot be used", *mistakes)
    cron.read_timezone(schedule.timezone)
    if schedule.cron is not None:
        cron.check_rule(schedule.cron)


def check_has_instants(schedule: Schedule, moment: datetime) -> None:
    """Raises Invalid for a rule without an instant after a moment."""
    if schedule.type in TIMED and cron.next_after(timing_rule(schedule), moment) is None:
        mistake = Mistake("/end_at", "no instant lies before it and in the future")
        if schedule.end_at is None and schedule.type == ScheduleType.ONCE:
            mistake = Mistake("/at", "must lie in the future")
        elif schedule.end_at is None:
            mistake = Mistake("/start_at", "no instant comes after it")
        raise Invalid("the schedule would never be due", mistake)


def _mistakes(schedule: Schedule) -> Iterator[Mistake]:
    for name, type in _TYPE_OF_FIELD.items():
        value = getattr(schedule, name)
        if schedule.type == type and value is None:
            yield Mistake(f"/{name}", f"a schedule of type {type} needs it")
        if schedule.type != type and value is not None:
            detail = f"belongs to a schedule of type {type}, and this is of type {schedule.type}"
            yield Mistake(f"/{name}", detail)
    if schedule.every is not None and schedule.every < MIN_INTERVAL:
        yield Mistake("/every", "must be at least 1s")
    if schedule.jitter is not None and schedule.jitter > MAX_JITTER:
        yield Mistake("/jitter", "must be at most 24h")
    if schedule.start_at and schedule.end_at and schedule.end_at <= schedule.start_at:
        yield Mistake("/end_at", "must be later than start_at")
    if not FINAL_RUNS.issuperset(schedule.after_states or ()) or schedule.after_states == []:
        detail = f"must name one or more of {', '.join(sorted(FINAL_RUNS))}"
        yield Mistake("/after_states", detail)
