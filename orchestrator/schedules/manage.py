"""Schedules: the rules, addresses and events that submit runs of one workflow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from orchestrator import workflows
from orchestrator.access import signing
from orchestrator.db import statements
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
from orchestrator.spec.params import check_params

_SUCCEEDED = ("succeeded",)
# A change of one of these makes the next instant anew.
_RULE = frozenset({"cron", "every", "at", "timezone", "jitter", "start_at", "end_at"})
# What a trigger may still add, of the keywords of a JSON Schema.
_LATER = frozenset(
    {
        "required", "dependentRequired", "dependentSchemas", "minProperties",
        "anyOf", "oneOf", "allOf", "if", "then", "else", "not",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NewSchedule:
    """What a caller asks for."""

    workflow: str
    type: ScheduleType
    version: int | None = None  # the latest when it fires
    name: str | None = None  # the workflow's
    description: str | None = None
    cron: str | None = None
    every: timedelta | None = None
    at: datetime | None = None
    after_workflow: str | None = None
    after_states: Sequence[str] | None = None  # succeeded
    timezone: str = "UTC"
    jitter: timedelta | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    overlap: Overlap = Overlap.ALLOW
    catch_up: CatchUp = CatchUp.LATEST
    active: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None
    sla: timedelta | None = None
    timeout: timedelta | None = None  # of each of its runs; the workflow's own
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
    settings: Mapping[str, Any] | None = None  # members that the schedule's have


# What runs of a workflow lead to, over all that waits for the ends of runs.
_LEADS_TO = """
    WITH RECURSIVE started AS (
        SELECT CAST(:workflow AS text) AS name
        UNION
        SELECT schedules.workflow FROM schedules JOIN started ON after_workflow = started.name
        WHERE tenant_id = :tenant_id AND type = 'event' AND active AND id <> :id
    ) SELECT 1 FROM started WHERE name = :after
"""


def create_schedule(session: Session, tenant_id: UUID, new: NewSchedule) -> Schedule:
    """Make a schedule. Raises NotFound for the workflow or version, and Invalid."""
    workflow = workflows.get(session, tenant_id, new.workflow)
    moment = database_now(session)
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
        schedule.after_states = list(new.after_states or _SUCCEEDED)
    _check(session, schedule, workflow)
    timing.check_has_instants(schedule, moment)
    timing.schedule_next(schedule, moment)
    session.add(schedule)
    session.flush()
    return schedule


def get_schedule(
    session: Session, tenant_id: UUID, which: UUID | int, *, lock: bool = False
) -> Schedule:
    """A schedule by id or number. Raises NotFound."""
    asked = select(Schedule).where(Schedule.tenant_id == tenant_id, numbered_or_id(Schedule, which))
    asked = asked.with_for_update(key_share=True) if lock else asked
    schedule = session.scalar(asked.execution_options(populate_existing=True))
    if schedule is None:
        raise NotFound(f"there is no schedule {which}")
    return schedule


def schedules_of_runs(session: Session, runs: Iterable[Run]) -> Mapping[UUID, Schedule]:
    """The schedules that submitted runs, by id; not those that were deleted."""
    ids = {run.schedule_id for run in runs if run.schedule_id}
    return {each.id: each for each in session.scalars(select(Schedule).where(Schedule.id.in_(ids)))}


def page_of_schedules(
    session: Session,
    tenant_id: UUID,
    which: ScheduleFilter,
    *,
    before: UUID | None = None,
    limit: int = 50,
    offset: int = 0,
) -> list[Schedule]:
    """Schedules, the newest first, those made before one of them."""
    asked = select(Schedule).where(*_conditions(tenant_id, which))
    if before is not None:
        asked = asked.where(Schedule.id < before)
    asked = asked.order_by(Schedule.id.desc()).limit(limit).offset(offset)
    return list(session.scalars(asked))


def count_schedules(session: Session, tenant_id: UUID, which: ScheduleFilter) -> int:
    """How many schedules there are."""
    asked = select(func.count()).select_from(Schedule)
    return session.scalars(asked.where(*_conditions(tenant_id, which))).one()


def change_schedule(
    session: Session, tenant_id: UUID, which: UUID | int, **changes: Any
) -> Schedule:
    """Change a schedule; another rule or a new start counts from now on.

    Raises NotFound, and Invalid for what does not go together.
    """
    schedule = get_schedule(session, tenant_id, which, lock=True)
    workflow = workflows.get(session, tenant_id, schedule.workflow)
    moment = database_now(session)
    was_active = schedule.active
    if "tags" in changes:
        changes["tags"] = sorted(set(changes["tags"]))
    changed = {name for name, value in changes.items() if getattr(schedule, name) != value}
    for name in changed:
        setattr(schedule, name, changes[name])
    _check(session, schedule, workflow)
    if changed & _RULE:
        timing.check_has_instants(schedule, moment)
    if changed & (_RULE | {"active"}):
        timing.schedule_next(schedule, moment)
    if schedule.active and not was_active:
        schedule.last_enabled_at = moment
    schedule.updated_at = moment
    session.flush()
    return schedule


def delete_schedule(session: Session, tenant_id: UUID, which: UUID | int) -> Schedule:
    """Forget a schedule, its firings and backfills; its runs stay.

    Raises NotFound, and Conflict while a backfill of it runs.
    """
    schedule = get_schedule(session, tenant_id, which, lock=True)
    ours = (Backfill.schedule_id == schedule.id, Backfill.state == BackfillState.RUNNING)
    running = session.scalar(select(Backfill.number).where(*ours).limit(1))
    if running is not None:
        raise Conflict(f"backfill {running} of this schedule runs: cancel it first")
    session.delete(schedule)
    return schedule


def preview_instants(
    session: Session, tenant_id: UUID, which: UUID | int, count: int
) -> list[datetime]:
    """The next instants of a schedule's rule, whether it is active or not. Raises NotFound."""
    schedule = get_schedule(session, tenant_id, which)
    first = database_now(session)
    coming = instants_between(timing.timing_rule(schedule), first, datetime.max.replace(tzinfo=UTC))
    return list(islice(coming, count))


def rotate_token(session: Session, tenant_id: UUID, which: UUID | int) -> Schedule:
    """Give the schedule another token; the old one is of no use from then on."""
    schedule = get_schedule(session, tenant_id, which, lock=True)
    if schedule.type != ScheduleType.API:
        raise Conflict(f"a schedule of type {schedule.type} has no token, only one of type api")
    schedule.token_number += 1
    schedule.updated_at = database_now(session)
    session.flush()
    return schedule


def schedule_of_token(session: Session, secret_key: str, which: UUID | int, token: str) -> Schedule:
    """The schedule, of whatever tenant, that this token triggers.

    Raises NotFound, with the same words whether the schedule or the token is not there.
    """
    schedule = session.scalar(select(Schedule).where(numbered_or_id(Schedule, which)))
    known = schedule is not None and schedule.type == ScheduleType.API
    made_of = (schedule.id, schedule.token_number) if schedule and known else (UUID(int=0), 0)
    right = signing.is_same_secret(token, signing.trigger_token(secret_key, *made_of))
    if schedule is None or not known or not right:
        raise NotFound("there is no trigger at this address, or its token is another one now")
    return schedule


def firings(
    session: Session, schedule: Schedule, *, before: int | None = None, limit: int = 50
) -> list[Firing]:
    """What became of a schedule's instants and events, the newest first."""
    asked = select(Firing).where(Firing.schedule_id == schedule.id)
    if before is not None:
        asked = asked.where(Firing.id < before)
    return list(session.scalars(asked.order_by(Firing.id.desc()).limit(limit)))


def database_now(session: Session) -> datetime:
    """The moment of this transaction, by the clock of Postgres."""
    return session.scalars(select(func.now())).one()


def _conditions(tenant_id: UUID, which: ScheduleFilter) -> list[ColumnElement[bool]]:
    conditions = [Schedule.tenant_id == tenant_id]
    for name, value in vars(which).items():
        if name == "settings" and value is not None:
            conditions.append(Schedule.settings.contains(dict(value)))
        elif value is not None:
            conditions.append(getattr(Schedule, name) == value)
    return conditions


def _check(session: Session, schedule: Schedule, workflow: Workflow) -> None:
    """Raises Invalid for what does not go together, and NotFound for the version."""
    timing.check_timing(schedule)
    if schedule.after_workflow is not None:
        try:
            workflows.get(session, schedule.tenant_id, schedule.after_workflow)
        except NotFound as error:
            mistake = Mistake("/after_workflow", str(error))
            raise Invalid("the schedule cannot be used", mistake) from None
        _check_no_circle(session, schedule)
    schema = workflows.get_version(session, workflow, schedule.version).spec.get("params", {})
    if schedule.type not in timing.TIMED:
        schema = {name: value for name, value in schema.items() if name not in _LATER}
    check_params(schema, schedule.params)


def _check_no_circle(session: Session, schedule: Schedule) -> None:
    """Raises Invalid when its runs would lead to themselves, more of them each time."""
    names = {"workflow": schedule.workflow, "after": schedule.after_workflow}
    given = {**names, "tenant_id": schedule.tenant_id, "id": schedule.id}
    if schedule.active and statements.row(session, _LEADS_TO, **given):
        told = f"runs of {schedule.workflow} lead to runs of {schedule.after_workflow} already"
        raise Invalid("the schedule would start itself", Mistake("/after_workflow", told))
