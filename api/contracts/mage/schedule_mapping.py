"""A trigger's words for when it is due, and what they are in the core's."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from orchestrator.errors import Invalid, Mistake
from orchestrator.models import Overlap, Schedule, ScheduleType
from orchestrator.spec.durations import format_duration, parse_duration
from orchestrator.states import RunState

SKIPS = "skip_if_previous_running"
ALWAYS = timedelta(seconds=10)  # how soon `@always_on` looks whether the last run has ended
_ONCE, _ALWAYS_ON, _EVERY = "@once", "@always_on", "@every "
_SOON = timedelta(seconds=1)
_AT = "/pipeline_schedule/"
_TIMED = frozenset({ScheduleType.CRON, ScheduleType.INTERVAL, ScheduleType.ONCE})
_NOTHING: Mapping[str, Any] = dict.fromkeys(
    ("cron", "every", "at", "after_workflow", "after_states", "start_at")
)
# The ends of runs that a matcher may name; a run that was cancelled or failed has more than one.
_ENDS: Mapping[str, tuple[RunState, ...]] = {
    "completed": (RunState.SUCCEEDED,),
    "failed": (RunState.FAILED, RunState.TIMED_OUT),
    "cancelled": (RunState.CANCELLED,),
}
# Where the core's mistakes lie in a body of ours.
_PLACES = {
    "cron": "schedule_interval", "every": "schedule_interval", "at": "start_time",
    "start_at": "start_time", "end_at": "start_time", "after_workflow": "event_matchers",
    "after_states": "event_matchers", "params": "variables",
}  # fmt: skip
_SAME = ("name", "description")


def kind_of(row: Schedule) -> str:
    """`time`, `api` or `event`."""
    return "time" if row.type in _TIMED else str(row.type)


def interval_of(row: Schedule) -> str | None:
    """When it is due: one of the names, a cron rule, or `@every 90s`."""
    if row.every is not None:
        always = row.every == ALWAYS and row.overlap == Overlap.SKIP
        return _ALWAYS_ON if always else f"{_EVERY}{format_duration(row.every)}"
    return _ONCE if row.type == ScheduleType.ONCE else row.cron


def start_of(row: Schedule) -> datetime | None:
    """From when on it counts."""
    return row.at or row.start_at


def matchers_of(row: Schedule) -> list[dict[str, Any]]:
    """The events that it waits for: ends of runs."""
    if row.after_workflow is None:
        return []
    ends = [name for name, states in _ENDS.items() if states[0] in (row.after_states or ())]
    pattern = {"pipeline_uuid": row.after_workflow, "status": ends}
    return [{"event_type": "pipeline_run", "name": row.after_workflow, "pattern": pattern}]


def changes(asked: Mapping[str, Any], row: Schedule | None, now: datetime) -> dict[str, Any]:
    """What a body asks for in the core's words; of a trigger that is there, only what differs.

    Raises Invalid for a rule that cannot be read.
    """
    told = {name: asked[name] for name in _SAME if asked.get(name) is not None}
    for theirs, ours in (("variables", "params"), ("tags", "tags"), ("settings", "settings")):
        if theirs in asked:
            told[ours] = asked[theirs] or ([] if theirs == "tags" else {})
    if "settings" in told:
        told |= _overlap(told["settings"], row)
        seconds = told["settings"].get("timeout")
        told["timeout"] = timedelta(seconds=seconds) if seconds else None
    if "sla" in asked:
        told["sla"] = timedelta(seconds=asked["sla"]) if asked["sla"] else None
    if asked.get("status") is not None:
        told["active"] = asked["status"] == "active"
    return told | _rule(asked, row, now)


def placed(error: Invalid, below: str = _AT) -> Invalid:
    """The core's refusal, with its mistakes where they are in the body."""
    found = []
    for mistake in error.mistakes:
        first, *rest = mistake.pointer.removeprefix("/").split("/")
        pointer = below + "/".join([_PLACES.get(first, first), *rest])
        found.append(Mistake(pointer, mistake.detail))
    return Invalid(str(error), *found)


def _overlap(settings: Mapping[str, Any], row: Schedule | None) -> dict[str, Any]:
    """What to do while a run goes on; one that is always on waits for its end anyway."""
    if settings.get(SKIPS):
        return {"overlap": Overlap.SKIP}
    skips = row is not None and row.overlap == Overlap.SKIP and interval_of(row) != _ALWAYS_ON
    return {"overlap": Overlap.ALLOW} if skips else {}


def _rule(asked: Mapping[str, Any], row: Schedule | None, now: datetime) -> dict[str, Any]:
    before = _shown(row)
    wanted = before | {name: asked[name] for name in before if asked.get(name) is not None}
    if row is not None and wanted == before:
        return {}
    kind = wanted["schedule_type"] or ("time" if wanted["schedule_interval"] else "api")
    if kind == "api":
        return {**_NOTHING, "type": ScheduleType.API}
    if kind == "event":
        return {**_NOTHING, "type": ScheduleType.EVENT, **_event(wanted["event_matchers"])}
    return {**_NOTHING, **_timed(wanted["schedule_interval"], wanted["start_time"], now)}


def _shown(row: Schedule | None) -> dict[str, Any]:
    names = ("schedule_type", "schedule_interval", "start_time", "event_matchers")
    if row is None:
        return dict.fromkeys(names)
    shown = (kind_of(row), interval_of(row), start_of(row), matchers_of(row))
    return dict(zip(names, shown, strict=True))


def _timed(interval: str | None, start: datetime | None, now: datetime) -> dict[str, Any]:
    if not interval:
        told = "say when: @once, @hourly, @daily, @weekly, @monthly, @always_on or a cron rule"
        raise Invalid("the trigger cannot be used", Mistake(f"{_AT}schedule_interval", told))
    if interval == _ONCE:
        at = max(start or now, now + _SOON)
        return {"type": ScheduleType.ONCE, "at": at}
    if interval == _ALWAYS_ON:
        always = {"every": ALWAYS, "overlap": Overlap.SKIP}
        return {"type": ScheduleType.INTERVAL, "start_at": start, **always}
    if interval.startswith(_EVERY):
        return {"type": ScheduleType.INTERVAL, "start_at": start, "every": _every(interval)}
    return {"type": ScheduleType.CRON, "start_at": start, "cron": interval}


def _every(interval: str) -> timedelta:
    try:
        return parse_duration(interval.removeprefix(_EVERY))
    except ValueError as error:
        raise Invalid(
            "the trigger cannot be used", Mistake(f"{_AT}schedule_interval", str(error))
        ) from None


def _event(matchers: list[dict[str, Any]] | None) -> dict[str, Any]:
    pattern = matchers[0].get("pattern") if matchers and len(matchers) == 1 else None
    name = pattern.get("pipeline_uuid") if isinstance(pattern, dict) else None
    ends = (pattern or {}).get("status") or ["completed"]
    known = isinstance(ends, list) and all(isinstance(end, str) and end in _ENDS for end in ends)
    if not isinstance(name, str) or not known:
        told = (
            'give one, as in {"pattern": {"pipeline_uuid": "load", "status": ["completed"]}}; '
            f"a status is one of {', '.join(_ENDS)}"
        )
        raise Invalid("the trigger cannot be used", Mistake(f"{_AT}event_matchers", told))
    states = [state for end in ends for state in _ENDS[end]]
    return {"after_workflow": name, "after_states": states}
