"""Backfills: runs of a schedule's instants in a range, a limited number at a time.

The instants are fixed at creation. Runs and the count of instants that are done are written in one
transaction under the backfill's row lock, so that each instant is run once.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import audit, workflows
from orchestrator.db import lookups, statements
from orchestrator.errors import Conflict, Invalid, InvalidTransition, Mistake, OrchestratorError
from orchestrator.json_values import clean_text
from orchestrator.models import Backfill, BackfillState, Run, Schedule, Trigger
from orchestrator.runs import cancellation, submission
from orchestrator.schedules import firing, manage, timing
from orchestrator.spec import cron
from orchestrator.spec.params import check_params

MAX_RUNS = 10_000
MAX_PARALLEL = 100
_BATCH = 20  # runs submitted in one transaction
_OPEN_RUNS = """
    SELECT id FROM runs WHERE schedule_id = :schedule_id AND backfill_id = :id
      AND state IN ('pending', 'queued', 'running', 'cancelling')
"""
_NEXT_INSTANTS = """
    SELECT instants[submitted + refused + 1 : submitted + refused + :count] AS instants
    FROM backfills WHERE id = :id
"""
# The state of an instant is that of its last run: a retry may have created another one.
_COUNTS = """
    SELECT backfill_id, count(*) AS runs,
        CASE WHEN state IN ('pending', 'queued') THEN 'waiting'
             WHEN state IN ('running', 'cancelling') THEN 'running'
             WHEN state IN ('failed', 'timed_out') THEN 'failed' ELSE state END AS word
    FROM (
        SELECT DISTINCT ON (backfill_id, logical_date) backfill_id, state FROM runs
        WHERE backfill_id = ANY(:ids) ORDER BY backfill_id, logical_date, number DESC
    ) last
    GROUP BY backfill_id, word
"""
_WORDS = ("waiting", "running", "succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class NewBackfill:
    """A request for a backfill of the instants from `start_at` on and before `end_at`."""

    start_at: datetime
    end_at: datetime
    parallel: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None  # None: the schedule's
    reason: str | None = None
    submitted_by: str | None = None


def create_backfill(
    session: Session, tenant_id: UUID, which: UUID | int, new: NewBackfill
) -> Backfill:
    """Create a backfill. Raises NotFound, Conflict for the schedule's type, and Invalid."""
    schedule = manage.get_schedule(session, tenant_id, which, lock=True)
    if schedule.type not in timing.TIMED:
        raise Conflict(f"a schedule of type {schedule.type} has no instants to run again")
    instants = _instants(schedule, new)
    _, version = workflows.for_run(session, tenant_id, schedule.workflow, schedule.version)
    check_params(version.spec.get("params", {}), {**schedule.params, **new.params})
    backfill = Backfill(
        tenant_id=tenant_id,
        schedule_id=schedule.id,
        workflow=schedule.workflow,
        total=len(instants),
        instants=instants,
        **vars(new),
    )
    session.add(backfill)
    session.flush()
    after = {"schedule_id": schedule.id, "total": backfill.total, **vars(new)}
    audit.record(session, tenant_id, "backfill.create", backfill.id, after=after)
    return backfill


def get_backfill(
    session: Session, tenant_id: UUID, which: UUID | int, *, lock: bool = False
) -> Backfill:
    """A backfill by id or number. Raises NotFound."""
    return lookups.find(session, Backfill, tenant_id, which, lock=lock)


def backfills_of_runs(session: Session, runs: Iterable[Run]) -> Mapping[UUID, Backfill]:
    """The backfills of runs, by id, without deleted ones."""
    ids = {run.backfill_id for run in runs if run.backfill_id}
    return {each.id: each for each in session.scalars(select(Backfill).where(Backfill.id.in_(ids)))}


def page_of_backfills(
    session: Session,
    tenant_id: UUID,
    *,
    schedule_id: UUID | None = None,
    state: BackfillState | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[Backfill]:
    """Backfills, newest first."""
    values = {"tenant_id": tenant_id, "schedule_id": schedule_id, "state": state}
    same = {name: value for name, value in values.items() if value is not None}
    statement = select(Backfill).filter_by(**same)
    return lookups.page_before(session, statement, Backfill.id, before, limit)


def backfill_progress(session: Session, backfills: list[Backfill]) -> dict[UUID, dict[str, int]]:
    """The number of instants by state, by the backfill's id."""
    progress = {
        each.id: {"total": each.total, "submitted": each.submitted, "refused": each.refused}
        | dict.fromkeys(_WORDS, 0)
        for each in backfills
    }
    for row in statements.rows(session, _COUNTS, ids=list(progress)):
        progress[row.backfill_id][row.word] = row.runs
    return progress


def cancel_backfill(
    session: Session,
    tenant_id: UUID,
    which: UUID | int,
    *,
    grace: timedelta,
    reason: str | None = None,
) -> Backfill:
    """Submit no further runs, and cancel those that have not ended.

    Raises NotFound, and InvalidTransition for a backfill that has ended.
    """
    backfill = get_backfill(session, tenant_id, which, lock=True)
    if backfill.state != BackfillState.RUNNING:
        raise InvalidTransition(f"backfill {which} is {backfill.state}: too late to cancel")
    _end(session, backfill, BackfillState.CANCELLED)
    session.flush()
    before, after = {"state": BackfillState.RUNNING}, {"state": backfill.state, "reason": reason}
    audit.record(session, tenant_id, "backfill.cancel", backfill.id, before=before, after=after)
    reason = reason or f"backfill {backfill.number} is cancelled"
    for run_id in _open_runs(session, backfill):
        with suppress(InvalidTransition):  # it has ended meanwhile
            cancellation.cancel(session, tenant_id, run_id, grace=grace, reason=reason)
    return backfill


def advance(session: Session, backfill_id: UUID, limits: firing.RunOptions) -> int:
    """Submit the next runs of a backfill, or finish it; gives how many instants that changed.

    0 while another scheduler has the row lock.
    """
    statement = select(Backfill).filter_by(id=backfill_id, state=BackfillState.RUNNING)
    backfill = session.scalar(statement.with_for_update(skip_locked=True))
    if backfill is None:
        return 0
    running = len(_open_runs(session, backfill))
    left = backfill.total - backfill.submitted - backfill.refused
    if not left and not running:
        _end(session, backfill, BackfillState.FINISHED)
        return 1
    count = min(backfill.parallel - running, left, _BATCH)
    if count <= 0:
        return 0
    schedule = manage.get_schedule(session, backfill.tenant_id, backfill.schedule_id)
    (row,) = statements.rows(session, _NEXT_INSTANTS, id=backfill.id, count=count)
    until = time.monotonic() + firing.MAX_SECONDS
    for submitted, instant in enumerate(row.instants, start=1):
        _submit(session, backfill, schedule, instant, limits.window)
        if time.monotonic() > until:
            return submitted
    return count


def fail_backfill(session: Session, backfill_id: UUID, detail: str) -> None:
    """Count the next instant as refused, after an error, so that the backfill goes on."""
    backfill = session.get_one(Backfill, backfill_id, with_for_update=True)
    backfill.refused += backfill.submitted + backfill.refused < backfill.total
    backfill.detail = clean_text(detail)


def _submit(
    session: Session, backfill: Backfill, schedule: Schedule, instant: datetime, window: int
) -> None:
    new = firing.new_run(
        session,
        schedule,
        params={**schedule.params, **backfill.params},
        priority=schedule.priority if backfill.priority is None else backfill.priority,
        concurrency_key=None,  # `parallel` is the limit of a backfill
        trigger=Trigger.BACKFILL,
        source_type="backfill",
        source_id=str(backfill.id),
        backfill_id=backfill.id,
        logical_date=instant,
        reason=backfill.reason or f"backfill {backfill.number} of {timing.timing_rule(schedule)}",
        submitted_by=backfill.submitted_by,
    )
    try:  # nothing is written before an OrchestratorError
        submission.submit(session, backfill.tenant_id, new, window=window)
    except OrchestratorError as error:
        backfill.refused += 1
        backfill.detail = f"{instant.isoformat()}: {firing.error_text(error)}"
    else:
        backfill.submitted += 1


def _instants(schedule: Schedule, new: NewBackfill) -> list[datetime]:
    """The instants of the range, also before the schedule's start. Raises Invalid."""
    if new.end_at <= new.start_at:
        mistake = Mistake("/end_at", "must be later than start_at")
        raise Invalid("the backfill cannot be used", mistake)
    rule = replace(timing.timing_rule(schedule), start_at=None, end_at=None)
    instants = list(islice(cron.instants_between(rule, new.start_at, new.end_at), MAX_RUNS + 1))
    if not 0 < len(instants) <= MAX_RUNS:
        amount = f"more than {MAX_RUNS:,}" if instants else "none"
        detail = f"{amount} of the schedule's instants lie from start_at on and before it"
        raise Invalid("the backfill cannot be used", Mistake("/end_at", detail))
    return instants


def _open_runs(session: Session, backfill: Backfill) -> list[UUID]:
    params = {"schedule_id": backfill.schedule_id, "id": backfill.id}
    return [run.id for run in statements.rows(session, _OPEN_RUNS, **params)]


def _end(session: Session, backfill: Backfill, state: BackfillState) -> None:
    backfill.state = state
    backfill.finished_at = lookups.database_now(session)
