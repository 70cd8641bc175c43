"""Between the API's words and the core's: ids, filters and bodies in, views of rows out."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.mage import vocabulary
from api.contracts.mage.vocabulary import (
    ALWAYS,
    ALWAYS_ON,
    ENDS,
    EVERY,
    ONCE,
    RULES,
    SKIPS,
    SORT_COLUMNS,
    STATES,
)
from api.toolkit.context import tenant
from api.toolkit.wire import relocated
from orchestrator import runs, schedules, workflows
from orchestrator.access.authentication import Principal
from orchestrator.errors import Invalid, Mistake, NotFound
from orchestrator.json_values import pointer_to
from orchestrator.models import Backfill, Overlap, Run, Schedule, ScheduleType, Workflow
from orchestrator.outputs import summaries
from orchestrator.runs import RunFilter, RunSort, SortOrder
from orchestrator.schedules import ScheduleFilter, TriggerPayload
from orchestrator.spec.durations import parse_duration
from orchestrator.states import RunState

_UTC = "UTC"
_TICK = timedelta(microseconds=1)
# The orders that an index has. No two rows share their value, except for the date of retries.
_ORDERS: Mapping[str, SortOrder] = {
    "execution_date": SortOrder.LOGICAL,
    "id": SortOrder.AGE,  # numbers ascend with time
    "created_at": SortOrder.AGE,
}
_LAST_FAILED = "last_run_failed"
_MAX_PLACES = 1000  # of event variables, to each of which a mistake is moved
_MAX_ORDER = 10  # columns that a list is sorted by
_MAX_CANCELLING_SCHEDULES = 1000  # those with `timeout_status: cancelled`
_SOON = timedelta(seconds=1)
_NO_RULE: Mapping[str, Any] = dict.fromkeys(
    ("cron", "every", "at", "after_workflow", "after_states", "start_at")
)
_RULE = ("schedule_type", "schedule_interval", "start_time", "event_matchers")
_NULLABLE = frozenset({"schedule_interval", "start_time"})  # of the rule
# Where the core's mistakes are in a body of this API.
_MEMBERS = {
    "cron": "schedule_interval", "every": "schedule_interval", "at": "start_time",
    "start_at": "start_time", "end_at": "start_time", "after_workflow": "event_matchers",
    "after_states": "event_matchers", "params": "variables", "timezone": "settings/timezone",
}  # fmt: skip
# The columns of steps that an answer needs; a result may be large.
_STEP_COLUMNS = (
    "number", "key", "state", "skip_cause", "error",
    "created_at", "queued_at", "started_at", "finished_at",
)  # fmt: skip
# The columns of runs that a list needs; it is read faster without the rest.
RUN_COLUMNS = (
    "id", "number", "state", "workflow", "schedule_id", "backfill_id", "logical_date", "params",
    "version_id", "variables", "event_variables", "passed_sla", "event_seq", "created_at",
    "started_at", "finished_at",
)  # fmt: skip


# Of a run that no trigger and no backfill started, or whose trigger is gone.
NO_SCHEDULE = Schedule(number=0, name="", type=ScheduleType.API, settings={})
_NO_BACKFILL = Backfill()


class BlockView(NamedTuple):
    """A step, its run and the run's trigger."""

    step: Any
    run: Run
    schedule: Schedule

    @property
    def status(self) -> str:
        return vocabulary.block_status(self.run, self.step)


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run and the other rows that an answer shows of it."""

    run: Run
    steps: Sequence[Any]
    schedule: Schedule
    backfill: Backfill
    metrics: Mapping[str, float] | None
    changed_at: datetime

    @property
    def status(self) -> str:
        return vocabulary.run_status(self.run, self.schedule)

    @cached_property
    def blocks(self) -> list[BlockView]:
        return [BlockView(step, self.run, self.schedule) for step in self.steps]


class ScheduleView(NamedTuple):
    """A trigger; in a list also its last run, and how many runs it has in each state."""

    schedule: Schedule
    last_run: Run | None = None
    counts: Mapping[RunState, int] = {}


class PipelineView(NamedTuple):
    """A workflow with its latest spec, and its triggers where a request names them."""

    workflow: Workflow
    spec: Mapping[str, Any]
    schedules: Sequence[ScheduleView] | None = None

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps, each with the keys of those that it needs and of those that need it."""
        steps = self.spec["steps"]
        before = [None, *(step["key"] for step in steps)]
        needs = {
            step["key"]: step.get("needs", [previous] if previous else [])
            for step, previous in zip(steps, before, strict=False)
        }
        after: dict[str, list[str]] = {key: [] for key in needs}
        for key, needed in needs.items():
            for each in needed:
                after[each].append(key)
        return [step | {"needs": needs[step["key"]], "after": after[step["key"]]} for step in steps]


class SessionView(NamedTuple):
    """Who signed in, the token, and until when it is valid."""

    caller: Principal
    token: str
    expires_at: datetime


def run_views(session: Session, rows: Sequence[Run]) -> list[RunView]:
    """The views of runs, by a fixed number of statements."""
    steps = runs.steps_of_runs(session, rows, _STEP_COLUMNS)
    triggers = schedules.schedules_of_runs(session, rows)
    backfills = schedules.backfills_of_runs(session, rows)
    metrics = summaries.metrics_of_runs(session, rows)
    changed = runs.changed_at(session, rows)
    return [
        RunView(
            run=run,
            steps=steps[run.id],
            schedule=(run.schedule_id and triggers.get(run.schedule_id)) or NO_SCHEDULE,
            backfill=(run.backfill_id and backfills.get(run.backfill_id)) or _NO_BACKFILL,
            metrics=metrics.get(run.id) or None,
            changed_at=changed.get(run.id, run.created_at),
        )
        for run in rows
    ]


def parse_id(text: str) -> int:
    """The number in a path. Raises NotFound if it is none."""
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise NotFound(f"{text!r} is not the id of anything; ids are numbers")
    return int(text)


def run_sort(columns: list[str]) -> RunSort:
    """The order of `col dir,col dir`. Raises Invalid."""
    texts = [text.strip() for text in ",".join(columns).split(",")]
    order = [_sorted_by(text) for text in texts if text][:_MAX_ORDER]
    if not order:
        return RunSort(SortOrder.LOGICAL)
    name, descends = order[0]
    if name in _ORDERS and (len(order) == 1 or _ORDERS[name] == SortOrder.AGE):
        return RunSort(_ORDERS[name], descending=descends)
    return RunSort(first=[(SORT_COLUMNS[each], down) for each, down in order])


def _sorted_by(text: str) -> tuple[str, bool]:
    """A column, and whether it descends."""
    name, _, direction = text.partition(" ")
    direction = direction.strip().lower()
    if name in SORT_COLUMNS and direction in ("", "asc", "desc"):
        return name, direction == "desc"
    known = ", ".join(SORT_COLUMNS)
    message = f"write one of {known}, then asc or desc, as in `execution_date desc`"
    raise Invalid("the list cannot be put in this order", Mistake("/query/order_by[]", message))


def run_filter(
    session: Session, query: Mapping[str, Any], schedule_id: UUID | None
) -> RunFilter | None:
    """The filter of a query; None if no run can match. Raises Invalid."""
    backfill_id = None
    if "backfill_id" in query:
        try:
            backfill_id = schedules.get_backfill(session, tenant(), query["backfill_id"]).id
        except NotFound:
            return None
    pipelines = _pipelines(session, query)
    if pipelines is None:
        return None
    statuses = _split(query, "status", "statuses")
    start, end = query.get("start_timestamp"), query.get("end_timestamp")
    return RunFilter(
        **_state_filter(session, statuses),
        workflow=pipelines,
        schedule_id=schedule_id,
        backfill_id=backfill_id,
        created_after=start and start - _TICK,  # both ends count
        created_before=end and end + _TICK,
    )


def schedule_fields(body: Mapping[str, Any], row: Schedule | None, now: datetime) -> dict[str, Any]:
    """The core's fields for the members of a body; of an existing trigger, only what differs.

    A member replaces the whole value, also by null, except for those that a trigger always has.
    Raises Invalid for a rule that cannot be read.
    """
    fields = {name: body[name] for name in ("name", "tags") if body.get(name) is not None}
    fields |= {name: body[name] for name in ("description",) if name in body}
    for member, name in (("variables", "params"), ("settings", "settings")):
        if member in body:
            fields[name] = body[member] or {}
    if "settings" in fields:
        fields |= _overlap(fields["settings"], row)
        seconds = fields["settings"].get("timeout")
        fields["timeout"] = timedelta(seconds=seconds) if seconds else None
        fields["max_running"] = fields["settings"].get("pipeline_run_limit")
        fields["continue_on_failure"] = bool(fields["settings"].get("allow_blocks_to_fail"))
        fields["timezone"] = fields["settings"].get("timezone") or _UTC
    if "sla" in body:
        fields["sla"] = timedelta(seconds=body["sla"]) if body["sla"] else None
    if body.get("status") is not None:
        fields["active"] = body["status"] == "active"
    return fields | _rule(body, row, now)


def mistakes_below(
    root: str, places: Mapping[str, str] | None = None
) -> AbstractContextManager[None]:
    """Move the core's mistakes to the members of a body's object at `root`, or to other places."""
    members = {f"/{name}": f"{root}/{member}" for name, member in _MEMBERS.items()}
    return relocated({"": root, **members, **(places or {})})


def places_of_events(root: str, payload: TriggerPayload) -> Mapping[str, str]:
    """Where in a body the mistakes are of parameters that its event variables gave."""
    names = (payload.event_variables or {}).keys() - (payload.variables or {}).keys()
    if len(names) > _MAX_PLACES:
        return {}
    return {pointer_to(["params", name]): root + pointer_to([name]) for name in names}


def _pipelines(session: Session, query: Mapping[str, Any]) -> Sequence[str] | None:
    """The names of the pipelines, by name and tag; () means all, None means that none matches."""
    names = _split(query, "pipeline_uuid", "pipeline_uuids")
    tags = _split(query, "pipeline_tag", "pipeline_tags")
    if not tags:
        return names
    tagged = workflows.tagged(session, tenant(), tags)
    return [name for name in tagged if not names or name in names] or None


def _split(query: Mapping[str, Any], name: str, plural: str) -> tuple[str, ...]:
    """The values of a parameter that may be sent once or several times, with commas between."""
    text = ",".join([query.get(name, ""), *query.get(plural, ())])
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _state_filter(session: Session, statuses: tuple[str, ...]) -> dict[str, Any]:
    known = [*STATES.words, _LAST_FAILED]
    if unknown := [each for each in statuses if each not in known]:
        message = f"{unknown[0]!r} is none of {', '.join(known)}"
        raise Invalid("there is no such status", Mistake("/query/status", message))
    last = _LAST_FAILED in statuses
    words = {"failed"} if last else set(statuses)
    states = STATES.states(*words)
    conditions: dict[str, Any] = {"state": states, "last_of_instant": last}
    if ("failed" in words) != ("cancelled" in words):
        conditions |= _timed_out(session, states)
    return conditions


def _timed_out(session: Session, states: list[RunState]) -> dict[str, Any]:
    """How triggers change the filter that call cancelled the runs that timed out."""
    cancels = ScheduleFilter(settings={"timeout_status": "cancelled"})
    rows = schedules.page_of_schedules(session, tenant(), cancels, limit=_MAX_CANCELLING_SCHEDULES)
    if not rows:
        return {}
    cancelled = RunFilter(state=[RunState.TIMED_OUT], schedule_ids=[row.id for row in rows])
    if RunState.TIMED_OUT in states:
        return {"but": cancelled}
    return {"state": (), "either": [RunFilter(state=states), cancelled]}


def _overlap(settings: Mapping[str, Any], row: Schedule | None) -> dict[str, Any]:
    """The overlap policy of settings; `@always_on` waits for the run before without one."""
    if settings.get(SKIPS):
        return {"overlap": Overlap.SKIP}
    if row is None or row.overlap != Overlap.SKIP:
        return {}
    return {} if vocabulary.schedule_interval(row) == ALWAYS_ON else {"overlap": Overlap.ALLOW}


def _rule(body: Mapping[str, Any], row: Schedule | None, now: datetime) -> dict[str, Any]:
    before: dict[str, Any] = {name: row and getattr(vocabulary, name)(row) for name in _RULE}
    rule = before | {
        name: body[name]
        for name in _RULE
        if name in body and (name in _NULLABLE or body[name] is not None)
    }
    if row is not None and rule == before:
        return {}
    kind = rule["schedule_type"] or ("time" if rule["schedule_interval"] else "api")
    if kind == "api":
        return {**_NO_RULE, "type": ScheduleType.API}
    if kind == "event":
        return {**_NO_RULE, "type": ScheduleType.EVENT, **_event(rule["event_matchers"])}
    return {**_NO_RULE, **_timed(rule["schedule_interval"], rule["start_time"], now)}


def _timed(interval: str | None, start: datetime | None, now: datetime) -> dict[str, Any]:
    if not interval:
        raise _unusable(
            "schedule_interval",
            "say when: @once, @hourly, @daily, @weekly, @monthly, @always_on or a cron rule",
        )
    if interval == ONCE:
        return {"type": ScheduleType.ONCE, "at": max(start or now, now + _SOON)}
    if interval == ALWAYS_ON:
        always = {"every": ALWAYS, "overlap": Overlap.SKIP}
        return {"type": ScheduleType.INTERVAL, "start_at": start, **always}
    if interval.startswith(EVERY):
        try:
            every = parse_duration(interval.removeprefix(EVERY))
        except ValueError as error:
            raise _unusable("schedule_interval", str(error)) from None
        return {"type": ScheduleType.INTERVAL, "start_at": start, "every": every}
    return {"type": ScheduleType.CRON, "start_at": start, "cron": RULES.get(interval, interval)}


def _event(matchers: list[dict[str, Any]] | None) -> dict[str, Any]:
    pattern = matchers[0].get("pattern") if matchers and len(matchers) == 1 else None
    name = pattern.get("pipeline_uuid") if isinstance(pattern, dict) else None
    ends = (pattern or {}).get("status") or ["completed"]
    known = isinstance(ends, list) and all(isinstance(end, str) and end in ENDS for end in ends)
    if not isinstance(name, str) or not known:
        raise _unusable(
            "event_matchers",
            'give one, as in {"pattern": {"pipeline_uuid": "load", "status": ["completed"]}}; '
            f"a status is one of {', '.join(ENDS)}",
        )
    states = [state for end in ends for state in ENDS[end]]
    return {"after_workflow": name, "after_states": states}


def _unusable(member: str, message: str) -> Invalid:
    return Invalid("the trigger cannot be used", Mistake(f"/{member}", message))
