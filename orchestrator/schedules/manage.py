"""Create, look up, list, change and delete schedules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from orchestrator import audit, workflows
from orchestrator.access import signing
from orchestrator.db import lookups, statements
from orchestrator.errors import Conflict, Invalid, Mistake, NotFound
from orchestrator.models import (
    Backfill,
    BackfillState,
    Firing,
    Overlap,
    Run,
    Schedule,
    ScheduleType,
    Workflow,
    numbered_or_id,
)
from orchestrator.schedules import timing
from orchestrator.spec.cron import CatchUp, instants_between
from orchestrator.spec.hidden_params import keep_hidden
from orchestrator.spec.params import check_params

_MAX_OF_WORKFLOWS = 1000
# A change of one of these computes the next instant anew.
_RULE_FIELDS = frozenset({"cron", "every", "at", "timezone", "jitter", "start_at", "end_at"})
# Keywords of a JSON Schema that parameters need not meet before a trigger adds to them.
_DEFERRED_KEYWORDS = frozenset(
    {
        "required", "dependentRequired", "dependentSchemas", "minProperties",
        "anyOf", "oneOf", "allOf", "if", "then", "else", "not",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NewSchedule:
    """A request for a schedule."""

    workflow: str
    type: ScheduleType
    version: int | None = None  # None: the latest when it fires
    name: str | None = None  # None: the workflow's
    description: str | None = None
    cron: str | None = None
    every: timedelta | None = None
    at: datetime | None = None
    after_workflow: str | None = None
    after_states: Sequence[str] | None = None  # None: succeeded
    timezone: str = "UTC"
    jitter: timedelta | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    overlap: Overlap = Overlap.ALLOW
    max_running: int | None = None
    continue_on_failure: bool = False
    catch_up: CatchUp = CatchUp.LATEST
    active: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None
    sla: timedelta | None = None
    timeout: timedelta | None = None  # of each run; None: the workflow's
    run_as: str | None = None
    tags: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    created_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleFilter:
    """Which schedules."""

    workflow: str | None = None
    type: ScheduleType | None = None
    active: bool | None = None
    settings: Mapping[str, Any] | None = None  # members that the schedule's settings contain


# The workflows whose runs the end of a run of a workflow starts, directly or not.
_LEADS_TO = """
    WITH RECURSIVE started AS (
        SELECT CAST(:workflow AS text) AS name
        UNION
        SELECT schedules.workflow FROM schedules JOIN started ON after_workflow = started.name
        WHERE tenant_id = :tenant_id AND type = 'event' AND active AND id <> :id
    ) SELECT 1 FROM started WHERE name = :after
"""


def create_schedule(session: Session, tenant_id: UUID, new: NewSchedule) -> Schedule:
    """Create a schedule. Raises NotFound for the workflow or version, and Invalid."""
    workflow = workflows.get(session, tenant_id, new.workflow)
    moment = lookups.database_now(session)
    schedule = Schedule(
        id=uuid7(),
        tenant_id=tenant_id,
        workflow_id=workflow.id,
        created_at=moment,
        updated_at=moment,
        last_enabled_at=moment if new.active else None,
        **vars(new),
    )
    schedule.name = new.name or workflow.name
    schedule.tags = sorted(set(new.tags))
    if new.type == ScheduleType.EVENT:
        schedule.after_states = list(new.after_states or ["succeeded"])
    _check(session, schedule, workflow)
    timing.check_has_instants(schedule, moment)
    timing.schedule_next(schedule, moment)
    session.add(schedule)
    session.flush()
    audit.record(session, tenant_id, "schedule.create", schedule.id, after=_summary(schedule))
    return schedule


def fire_latest(session: Session, schedule: Schedule) -> None:
    """Let a schedule fire its latest instant before now, too, unless it has done so already."""
    timing.schedule_latest(schedule, lookups.database_now(session))
    session.flush()


def get_schedule(
    session: Session, tenant_id: UUID, which: UUID | int, *, lock: bool = False
) -> Schedule:
    """A schedule by id or number. Raises NotFound."""
    return lookups.find(session, Schedule, tenant_id, which, lock=lock, key_share=True)


def schedules_of_runs(session: Session, runs: Iterable[Run]) -> Mapping[UUID, Schedule]:
    """The schedules of runs, by id, without deleted ones."""
    ids = {run.schedule_id for run in runs if run.schedule_id}
    return {each.id: each for each in session.scalars(select(Schedule).where(Schedule.id.in_(ids)))}


def schedules_of_workflows(
    session: Session, tenant_id: UUID, names: Sequence[str]
) -> list[Schedule]:
    """The schedules of workflows, newest first, up to 1,000."""
    statement = select(Schedule).where(
        Schedule.tenant_id == tenant_id, Schedule.workflow.in_(names)
    )
    return lookups.page_before(session, statement, Schedule.id, None, _MAX_OF_WORKFLOWS)


def page_of_schedules(
    session: Session,
    tenant_id: UUID,
    which: ScheduleFilter,
    *,
    before: UUID | None = None,
    limit: int = 50,
    offset: int = 0,
) -> list[Schedule]:
    """Schedules, newest first."""
    statement = select(Schedule).where(*_conditions(tenant_id, which)).offset(offset)
    return lookups.page_before(session, statement, Schedule.id, before, limit)


def count_schedules(session: Session, tenant_id: UUID, which: ScheduleFilter) -> int:
    """The number of these schedules."""
    return lookups.count(session, Schedule, *_conditions(tenant_id, which))


def change_schedule(
    session: Session, tenant_id: UUID, which: UUID | int, **changes: Any
) -> Schedule:
    """Change a schedule; a new rule applies from now on. Raises NotFound and Invalid."""
    schedule = get_schedule(session, tenant_id, which, lock=True)
    workflow = workflows.get(session, tenant_id, schedule.workflow)
    moment = lookups.database_now(session)
    was_active = schedule.active
    if "params" in changes:
        changes["params"] = _with_hidden(session, schedule, changes["params"])
    if "tags" in changes:
        changes["tags"] = sorted(set(changes["tags"]))
    changed = {name for name, value in changes.items() if getattr(schedule, name) != value}
    before = {name: getattr(schedule, name) for name in changed}
    for name in changed:
        setattr(schedule, name, changes[name])
    _check(session, schedule, workflow)
    if changed & _RULE_FIELDS:
        timing.check_has_instants(schedule, moment)
    if changed & (_RULE_FIELDS | {"active"}):
        timing.schedule_next(schedule, moment)
    if schedule.active and not was_active:
        schedule.last_enabled_at = moment
    schedule.updated_at = moment
    after = {name: changes[name] for name in changed}
    audit.record(session, tenant_id, "schedule.change", schedule.id, before=before, after=after)
    session.flush()
    return schedule


def _with_hidden(session: Session, schedule: Schedule, params: Mapping[str, Any]) -> Any:
    """The parameters with the schedule's own where they repeat what answers show as hidden."""
    which = (schedule.workflow, schedule.version)
    parts = workflows.hidden_parts_of(session, schedule.tenant_id, [which])[which]
    return keep_hidden(parts, dict(params), schedule.params)


def delete_schedule(session: Session, tenant_id: UUID, which: UUID | int) -> Schedule:
    """Delete a schedule with its firings and backfills; its runs stay.

    Raises NotFound, and Conflict while a backfill of it runs.
    """
    schedule = get_schedule(session, tenant_id, which, lock=True)
    open_ones = (Backfill.schedule_id == schedule.id, Backfill.state == BackfillState.RUNNING)
    running = session.scalar(select(Backfill.number).where(*open_ones).limit(1))
    if running is not None:
        raise Conflict(f"backfill {running} of this schedule runs: cancel it first")
    audit.record(session, tenant_id, "schedule.delete", schedule.id, before=_summary(schedule))
    session.delete(schedule)
    return schedule


def preview_instants(
    session: Session, tenant_id: UUID, which: UUID | int, count: int
) -> list[datetime]:
    """The next instants of a schedule's rule, also of an inactive one. Raises NotFound."""
    schedule = get_schedule(session, tenant_id, which)
    rule, end = timing.timing_rule(schedule), datetime.max.replace(tzinfo=UTC)
    return list(islice(instants_between(rule, lookups.database_now(session), end), count))


def rotate_token(session: Session, tenant_id: UUID, which: UUID | int) -> Schedule:
    """Replace the token of a schedule of type api. Raises NotFound and Conflict."""
    schedule = get_schedule(session, tenant_id, which, lock=True)
    if schedule.type != ScheduleType.API:
        raise Conflict(f"a schedule of type {schedule.type} has no token, only one of type api")
    change = {
        "before": {"token_number": schedule.token_number},
        "after": {"token_number": schedule.token_number + 1},
    }
    audit.record(session, tenant_id, "schedule.rotate_token", schedule.id, **change)
    schedule.token_number += 1
    schedule.updated_at = lookups.database_now(session)
    session.flush()
    return schedule


def schedule_of_token(session: Session, secret_key: str, which: UUID | int, token: str) -> Schedule:
    """The schedule of any tenant that this token triggers; several have the same number.

    Raises NotFound, with the same message for a wrong id and a wrong token.
    """
    statement = select(Schedule).where(numbered_or_id(Schedule, which))
    for schedule in session.scalars(statement.where(Schedule.type == ScheduleType.API)):
        expected = signing.trigger_token(secret_key, schedule.id, schedule.token_number)
        if signing.is_same_secret(token, expected):
            return schedule
    raise NotFound("there is no trigger at this address, or its token is another one now")


def firings(
    session: Session, schedule: Schedule, *, before: int | None = None, limit: int = 50
) -> list[Firing]:
    """The firings of a schedule, newest first."""
    statement = select(Firing).where(Firing.schedule_id == schedule.id)
    return lookups.page_before(session, statement, Firing.id, before, limit)


def _summary(schedule: Schedule) -> dict[str, Any]:
    """What a caller set of a schedule, for the audit log."""
    names = vars(NewSchedule(workflow="", type=ScheduleType.API))
    values = {name: getattr(schedule, name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, {}, [], ())}


def _conditions(tenant_id: UUID, which: ScheduleFilter) -> list[ColumnElement[bool]]:
    conditions = [Schedule.tenant_id == tenant_id]
    for name, value in vars(which).items():
        if name == "settings" and value is not None:
            conditions.append(Schedule.settings.contains(dict(value)))
        elif value is not None:
            conditions.append(getattr(Schedule, name) == value)
    return conditions


def _check(session: Session, schedule: Schedule, workflow: Workflow) -> None:
    """Raises Invalid for fields that contradict each other, and NotFound for the version."""
    timing.check_timing(schedule)
    if schedule.after_workflow is not None:
        try:
            workflows.get(session, schedule.tenant_id, schedule.after_workflow)
        except NotFound as error:
            mistake = Mistake("/after_workflow", str(error))
            raise Invalid("the schedule cannot be used", mistake) from None
        _check_no_cycle(session, schedule)
    schema = workflows.get_version(session, workflow, schedule.version).spec.get("params", {})
    if schedule.type not in timing.TIMED:
        schema = {name: value for name, value in schema.items() if name not in _DEFERRED_KEYWORDS}
    check_params(schema, schedule.params)


def _check_no_cycle(session: Session, schedule: Schedule) -> None:
    """Raises Invalid if the schedule's runs would start it again."""
    names = {"workflow": schedule.workflow, "after": schedule.after_workflow}
    params = {**names, "tenant_id": schedule.tenant_id, "id": schedule.id}
    if schedule.active and statements.row(session, _LEADS_TO, **params):
        detail = f"runs of {schedule.workflow} lead to runs of {schedule.after_workflow} already"
        raise Invalid("the schedule would start itself", Mistake("/after_workflow", detail))
