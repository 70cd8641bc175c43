"""Backfills: the instants of a schedule in a range, run as one object, so many at a time.

The instants are fixed when it is made. The runs of some of them and the count of those that are
dealt with are one transaction under the backfill's row lock, so each instant is run once.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator import workflows
from orchestrator.db import statements
from orchestrator.errors import Conflict, Invalid, InvalidTransition, Mistake, NotFound
from orchestrator.errors import OrchestratorError as Refused
from orchestrator.json_values import clean_text
from orchestrator.models import Backfill, BackfillState, Run, Schedule, Trigger, numbered_or_id
from orchestrator.runs import NewRun, cancellation, submission
from orchestrator.schedules import firing, manage, timing
from orchestrator.spec import cron
from orchestrator.spec.params import check_params

MAX_RUNS = 10_000  # instants
MAX_PARALLEL = 100
_AT_ONCE = 20  # runs submitted in one transaction
_OPEN = """
    SELECT id FROM runs WHERE schedule_id = :schedule_id AND backfill_id = :id
      AND state IN ('pending', 'queued', 'running', 'cancelling')
"""
_NEXT = """
    SELECT instants[submitted + refused + 1 : submitted + refused + :count] AS instants
    FROM backfills WHERE id = :id
"""
# An instant is where the last of its runs is: a retry may have made it anew.
_COUNTS = """
    SELECT backfill_id, count(*) AS runs,
        CASE WHEN state IN ('pending', 'queued') THEN 'waiting'
             WHEN state IN ('running', 'cancelling') THEN 'running'
             WHEN state IN ('failed', 'timed_out') THEN 'failed' ELSE state END AS became
    FROM (
        SELECT DISTINCT ON (backfill_id, logical_date) backfill_id, state FROM runs
        WHERE backfill_id = ANY(:ids) ORDER BY backfill_id, logical_date, number DESC
    ) last
    GROUP BY backfill_id, became
"""
_BECAME = ("waiting", "running", "succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class NewBackfill:
    """What a caller asks for: the instants from `start_at` on and before `end_at`."""

    start_at: datetime
    end_at: datetime
    parallel: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None  # the schedule's
    reason: str | None = None
    submitted_by: str | None = None


def create_backfill(
    session: Session, tenant_id: UUID, which: UUID | int, new: NewBackfill
) -> Backfill:
    """Begin a backfill of a schedule. Raises NotFound, Conflict for its type, and Invalid."""
    schedule = manage.get_schedule(session, tenant_id, which, lock=True)
    if schedule.type not in timing.TIMED:
        raise Conflict(f"a schedule of type {schedule.type} has no instants to run again")
    instants = _instants(schedule, new)
    workflow = workflows.get(session, tenant_id, schedule.workflow)
    spec = workflows.get_version(session, workflow, schedule.version).spec
    check_params(spec.get("params", {}), {**schedule.params, **new.params})
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
    return backfill


def get_backfill(
    session: Session, tenant_id: UUID, which: UUID | int, *, lock: bool = False
) -> Backfill:
    """A backfill by id or number. Raises NotFound."""
    asked = select(Backfill).where(Backfill.tenant_id == tenant_id, numbered_or_id(Backfill, which))
    asked = asked.with_for_update() if lock else asked
    backfill = session.scalar(asked.execution_options(populate_existing=True))
    if backfill is None:
        raise NotFound(f"there is no backfill {which}")
    return backfill


def backfills_of_runs(session: Session, runs: Iterable[Run]) -> Mapping[UUID, Backfill]:
    """The backfills that submitted runs, by id; not those that were deleted."""
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
    """Backfills, the newest first, those made before one of them."""
    asked = select(Backfill).where(Backfill.tenant_id == tenant_id)
    if schedule_id is not None:
        asked = asked.where(Backfill.schedule_id == schedule_id)
    if state is not None:
        asked = asked.where(Backfill.state == state)
    if before is not None:
        asked = asked.where(Backfill.id < before)
    return list(session.scalars(asked.order_by(Backfill.id.desc()).limit(limit)))


def backfill_progress(session: Session, found: list[Backfill]) -> dict[UUID, dict[str, int]]:
    """Of each backfill, how many instants are in which condition."""
    told = {
        each.id: {"total": each.total, "submitted": each.submitted, "refused": each.refused}
        | dict.fromkeys(_BECAME, 0)
        for each in found
    }
    for row in statements.rows(session, _COUNTS, ids=list(told)):
        told[row.backfill_id][row.became] = row.runs
    return told


def cancel_backfill(
    session: Session,
    tenant_id: UUID,
    which: UUID | int,
    *,
    grace: timedelta,
    reason: str | None = None,
) -> Backfill:
    """Submit no more, and cancel the runs that have not ended.

    Raises NotFound, and InvalidTransition for a backfill that is over.
    """
    backfill = get_backfill(session, tenant_id, which, lock=True)
    if backfill.state != BackfillState.RUNNING:
        raise InvalidTransition(f"backfill {which} is {backfill.state}: too late to cancel")
    _end(session, backfill, BackfillState.CANCELLED)
    session.flush()
    reason = reason or f"backfill {backfill.number} is cancelled"
    for run in _open(session, backfill):
        with suppress(InvalidTransition):  # it has ended meanwhile
            cancellation.cancel(session, tenant_id, run, grace=grace, reason=reason)
    return backfill


def advance(session: Session, backfill_id: UUID, limits: firing.RunOptions) -> int:
    """Submit the next runs of a backfill, or finish it; gives how much that was.

    Nothing happens while another scheduler does.
    """
    asked = select(Backfill).where(
        Backfill.id == backfill_id, Backfill.state == BackfillState.RUNNING
    )
    backfill = session.scalar(asked.with_for_update(skip_locked=True))
    if backfill is None:
        return 0
    running = len(_open(session, backfill))
    left = backfill.total - backfill.submitted - backfill.refused
    if not left and not running:
        _end(session, backfill, BackfillState.FINISHED)
        return 1
    count = min(backfill.parallel - running, left, _AT_ONCE)
    if count <= 0:
        return 0
    schedule = manage.get_schedule(session, backfill.tenant_id, backfill.schedule_id)
    found = statements.row(session, _NEXT, id=backfill.id, count=count)
    for instant in found.instants if found else ():
        _submit(session, backfill, schedule, instant, limits)
    return count


def fail_backfill(session: Session, backfill_id: UUID, detail: str) -> None:
    """Pass over an instant that cannot be acted upon."""
    backfill = session.get_one(Backfill, backfill_id, with_for_update=True)
    backfill.refused += backfill.submitted + backfill.refused < backfill.total
    backfill.detail = clean_text(detail)


def _submit(
    session: Session,
    backfill: Backfill,
    schedule: Schedule,
    instant: datetime,
    limits: firing.RunOptions,
) -> None:
    given = firing.schedule_fields(schedule) | {
        "params": {**schedule.params, **backfill.params},
        "priority": schedule.priority if backfill.priority is None else backfill.priority,
        "trigger": Trigger.BACKFILL,
        "source_type": "backfill",
        "source_id": str(backfill.id),
        "backfill_id": backfill.id,
        "logical_date": instant,
        "reason": backfill.reason
        or f"backfill {backfill.number} of {timing.timing_rule(schedule)}",
        "submitted_by": backfill.submitted_by,
    }
    try:  # what it raises, it raises before it has written anything
        submission.submit(session, backfill.tenant_id, NewRun(**given), window=limits.window)
    except Refused as error:
        backfill.refused += 1
        backfill.detail = f"{instant.isoformat()}: {firing.error_text(error)}"
    else:
        backfill.submitted += 1


def _instants(schedule: Schedule, new: NewBackfill) -> list[datetime]:
    """The instants of the range, also those before the schedule began."""
    if new.end_at <= new.start_at:
        mistake = Mistake("/end_at", "must be later than start_at")
        raise Invalid("the backfill cannot be used", mistake)
    rule = timing.default_window(schedule)
    found = list(islice(cron.instants_between(rule, new.start_at, new.end_at), MAX_RUNS + 1))
    if not 0 < len(found) <= MAX_RUNS:
        what = f"more than {MAX_RUNS:,}" if found else "none"
        told = f"{what} of the schedule's instants lie from start_at on and before it"
        raise Invalid("the backfill cannot be used", Mistake("/end_at", told))
    return found


def _open(session: Session, backfill: Backfill) -> list[UUID]:
    given = {"schedule_id": backfill.schedule_id, "id": backfill.id}
    return [run.id for run in statements.rows(session, _OPEN, **given)]


def _end(session: Session, backfill: Backfill, state: BackfillState) -> None:
    backfill.state = state
    backfill.finished_at = session.scalars(select(func.now())).one()
