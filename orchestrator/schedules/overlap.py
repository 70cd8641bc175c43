"""What a schedule does with a run while earlier runs of it have not ended."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.db import statements
from orchestrator.errors import InvalidTransition
from orchestrator.models import Overlap, Schedule

# A backfill keeps a limit of its own, and is no reason to skip an instant.
_OPEN = """
    SELECT id FROM runs
    WHERE schedule_id = :schedule_id AND state IN ('pending', 'queued', 'running', 'cancelling')
      AND backfill_id IS NULL AND id IS DISTINCT FROM CAST(:but AS uuid)
    ORDER BY id
"""
# How many open runs leave no room for one more.
_FULL: Mapping[Overlap, int] = {Overlap.SKIP: 1, Overlap.BUFFER_ONE: 2}
_ONE_AT_A_TIME = frozenset({Overlap.BUFFER_ONE, Overlap.CANCEL_RUNNING})


def overlap_key(schedule: Schedule) -> str | None:
    """The concurrency key of its runs, when one has to wait for the end of the other."""
    return f"schedule:{schedule.id}" if schedule.overlap in _ONE_AT_A_TIME else None


def is_full(session: Session, schedule: Schedule, but: UUID | None = None) -> str | None:
    """Why there is no room for another run of the schedule, None if there is."""
    most = _FULL.get(schedule.overlap)
    if most is None:
        return None
    running = statements.rows(session, _OPEN, schedule_id=schedule.id, but=but)
    if len(running) < most:
        return None
    what = "has not ended" if most == 1 else "has not ended, and another one waits for it"
    return f"overlap is {schedule.overlap}: run {running[0].id} {what}"


def cancel_others(session: Session, schedule: Schedule, but: UUID, grace: timedelta) -> None:
    """Stop the earlier runs; the new one waits for the end of the last of them."""
    if schedule.overlap != Overlap.CANCEL_RUNNING:
        return
    reason = f"a later run of schedule {schedule.number} takes its place"
    for run in statements.rows(session, _OPEN, schedule_id=schedule.id, but=but):
        with suppress(InvalidTransition):  # it has ended meanwhile
            runs.cancel(session, schedule.tenant_id, run.id, grace=grace, reason=reason)
