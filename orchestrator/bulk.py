"""A verb for all runs that a filter finds, some of them in each transaction."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import listing, runs, store
from orchestrator.errors import Invalid, Mistake
from orchestrator.listing import RunFilter, RunOrder
from orchestrator.states import RunState

AT_ONCE = 200  # runs
_STOPPABLE = (RunState.PENDING, RunState.QUEUED, RunState.RUNNING)
_LOCK = f"""
    SELECT {store.RUN} FROM runs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND state IN ('pending', 'queued', 'running')
    ORDER BY id FOR UPDATE
"""


def stoppable(which: RunFilter) -> RunFilter:
    """Those of the runs that have not ended, and were not told to. Raises Invalid for none."""
    states = [state for state in which.state or _STOPPABLE if state in _STOPPABLE]
    if not states:
        mistake = Mistake("/filter/state", f"some of {', '.join(_STOPPABLE)}")
        raise Invalid("runs in these states cannot be cancelled", mistake)
    return replace(which, state=states)


def cancel(
    session: Session,
    tenant_id: UUID,
    which: RunFilter,
    *,
    grace: timedelta,
    reason: str | None = None,
) -> int:
    """Stop the oldest runs that the filter finds; gives how many, 0 when none is left."""
    found = listing.columns(
        session, tenant_id, stoppable(which), RunOrder(descending=False), AT_ONCE, ["id"]
    )
    locked = store.rows(session, _LOCK, ids=[run.id for run in found])
    waiting = [run for run in locked if run.state != RunState.RUNNING]
    runs.stop_waiting(session, waiting, reason=reason)
    for run in locked:
        if run.state == RunState.RUNNING:
            runs.stop(session, run, grace=grace, reason=reason)
    return len(found)
