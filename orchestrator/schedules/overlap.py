"""Overlap policies: what happens to a new run of a schedule while earlier ones are open."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.db import statements
from orchestrator.engine import concurrency
from orchestrator.errors import InvalidTransition
from orchestrator.models import Overlap, Schedule

# Runs of backfills, which have a limit of their own, are not counted.
_OPEN_RUNS = """
    SELECT id FROM runs
    WHERE schedule_id = :schedule_id AND state IN ('pending', 'queued', 'running', 'cancelling')
      AND backfill_id IS NULL AND id IS DISTINCT FROM CAST(:except_for AS uuid)
    ORDER BY id LIMIT 100 -- the next run cancels further ones
"""
_MAX_OPEN: Mapping[Overlap, int] = {Overlap.SKIP: 1, Overlap.BUFFER_ONE: 2}
_ONE_AT_A_TIME = frozenset({Overlap.BUFFER_ONE, Overlap.CANCEL_RUNNING})


def overlap_key(session: Session, schedule: Schedule) -> str | None:
    """The concurrency key of the schedule's next run, if not any number of them may go on."""
    name = f"schedule:{schedule.id}"
    if schedule.overlap in _ONE_AT_A_TIME:
        return name
    if schedule.max_running is None:
        return None
    return concurrency.slot_of(session, schedule.workflow_id, name, schedule.max_running)


def is_full(session: Session, schedule: Schedule, except_for: UUID | None = None) -> str | None:
    """Why the policy allows no further run of the schedule; None if it does."""
    limit = _MAX_OPEN.get(schedule.overlap)
    if limit is None:
        return None
    rows = statements.rows(session, _OPEN_RUNS, schedule_id=schedule.id, except_for=except_for)
    if len(rows) < limit:
        return None
    reason = "has not ended" if limit == 1 else "has not ended, and another one waits for it"
    return f"overlap is {schedule.overlap}: run {rows[0].id} {reason}"


def cancel_others(session: Session, schedule: Schedule, new_run: UUID, grace: timedelta) -> None:
    """Cancel the earlier runs if the policy says so; the new one waits for their end."""
    if schedule.overlap != Overlap.CANCEL_RUNNING:
        return
    reason = f"a later run of schedule {schedule.number} takes its place"
    for run in statements.rows(session, _OPEN_RUNS, schedule_id=schedule.id, except_for=new_run):
        with suppress(InvalidTransition):  # it has ended meanwhile
            runs.cancel(session, schedule.tenant_id, run.id, grace=grace, reason=reason)
