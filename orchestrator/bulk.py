"""A verb for all runs that a filter finds, some of them in each transaction."""

from collections.abc import Sequence
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
    after: UUID | None = None,
) -> Sequence[UUID]:
    """Stop the oldest runs that the filter finds, those made after one of them; none when over.

    To go on after the last one spares a look at all that have been stopped before.
    """
    order = RunOrder(descending=False, after=(after,) if after else None)
    found = listing.columns(session, tenant_id, stoppable(which), order, AT_ONCE, ["id"])
    ids = [run.id for run in found]
    locked = store.rows(session, _LOCK, ids=ids)
    waiting = [run for run in locked if run.state != RunState.RUNNING]
    runs.stop_waiting(session, waiting, reason=reason)
    for run in locked:
        if run.state == RunState.RUNNING:
            runs.stop(session, run, grace=grace, reason=reason)
    return ids
