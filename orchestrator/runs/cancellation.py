"""Cancel runs: one, or all that a filter selects."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import audit
from orchestrator.db import Row, statements, transitions
from orchestrator.engine import concurrency, progress, publishing
from orchestrator.errors import Invalid, InvalidTransition, Mistake
from orchestrator.models import Run
from orchestrator.runs import listing
from orchestrator.runs.listing import RunFilter, RunSort
from orchestrator.runs.queries import get, lock
from orchestrator.states import FINAL_RUNS, RunState, RunTransition, StepTransition

_REQUEST_CANCEL = """
    cancel_requested_at = coalesce(cancel_requested_at, now()),
    cancel_reason = coalesce(cancel_reason, CAST(:reason AS text))
"""
_STOP = f"""
    {_REQUEST_CANCEL}, timed_out = :timed_out, stop_by = now() + CAST(:grace AS interval),
    error = :error
"""
_SHORTEN_GRACE = """
    UPDATE runs SET stop_by = least(stop_by, now() + CAST(:grace AS interval)) WHERE id = :id
"""
_RUNNING_TASKS = """
    SELECT attempts.task_id FROM steps
    JOIN attempts ON step_id = steps.id AND attempts.number = steps.attempt
    WHERE steps.run_id = :id AND state = 'running'
"""


def cancel(
    session: Session, tenant_id: UUID, run_id: UUID, *, grace: timedelta, reason: str | None = None
) -> Run:
    """Cancel a run: at once if no step is running, else when its steps end or are killed.

    A second cancel may shorten the grace. Raises NotFound, and InvalidTransition for a run that
    has ended.
    """
    run = lock(session, tenant_id, run_id)
    if run.state in FINAL_RUNS:
        raise InvalidTransition(f"run {run.id} is {run.state}: too late to cancel")
    return stop_run(session, run, grace=grace, reason=reason)


def stop_run(
    session: Session, run: Row, *, grace: timedelta, reason: str | None, timed_out: bool = False
) -> Run:
    """Cancel or time out a locked run: open steps end now, running ones within the grace."""
    if run.state in (RunState.PENDING, RunState.QUEUED):
        cancel_waiting_steps(session, [run], reason=reason)
        return get(session, run.tenant_id, run.id)
    running = statements.rows(session, _RUNNING_TASKS, id=run.id)
    cancel = transitions.steps(session, StepTransition.CANCEL)
    unclaimed = cancel.where("run_id = :id", id=run.id).all()
    publishing.revoke(session, [step.task_id for step in (*unclaimed, *running)])
    error = statements.to_json({"message": reason, "kind": "Timeout"} if timed_out else None)
    params = {"reason": reason, "timed_out": timed_out, "grace": grace, "error": error}
    stop = transitions.runs(session, RunTransition.STOP).where("id = :id", id=run.id)
    if not stop.set(_STOP, **params).one():
        statements.execute(session, _SHORTEN_GRACE, id=run.id, grace=grace)
    after = {"state": RunState.CANCELLING, "reason": reason, "grace": grace}
    verb = "run.time_out" if timed_out else "run.cancel"
    audit.record(session, run.tenant_id, verb, run.id, before={"state": run.state}, after=after)
    progress.close_if_ended(session, run.id)
    return get(session, run.tenant_id, run.id)


def cancel_waiting_steps(session: Session, waiting: Sequence[Row], *, reason: str | None) -> None:
    """Cancel locked runs that have not started any step."""
    ids = [run.id for run in waiting]
    cancel = transitions.steps(session, StepTransition.CANCEL)
    unclaimed = cancel.where("run_id = ANY(CAST(:ids AS uuid[]))", ids=ids).all()
    publishing.revoke(session, [step.task_id for step in unclaimed])
    cancelled = transitions.runs(session, RunTransition.CANCEL).where("id = ANY(:ids)", ids=ids)
    cancelled.set(_REQUEST_CANCEL, reason=reason).all()
    after = {"state": RunState.CANCELLED, "reason": reason}
    changes = [audit.Change(run.id, {"state": run.state}, after) for run in waiting]
    if waiting:  # all of one tenant
        audit.record_all(session, waiting[0].tenant_id, "run.cancel", changes)
    for run in waiting:
        if run.due:  # otherwise it does not hold its concurrency key
            concurrency.release(session, run)


CANCEL_BATCH = 200  # runs
_STOPPABLE = (RunState.PENDING, RunState.QUEUED, RunState.RUNNING)
_LOCK = f"""
    SELECT {transitions.RUN_COLUMNS} FROM runs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND state IN ('pending', 'queued', 'running')
    ORDER BY id FOR UPDATE
"""


def cancellable_filter(which: RunFilter) -> RunFilter:
    """The filter, limited to the states that can be cancelled. Raises Invalid if none is left."""
    states = [state for state in which.state or _STOPPABLE if state in _STOPPABLE]
    if not states:
        mistake = Mistake("/filter/state", f"some of {', '.join(_STOPPABLE)}")
        raise Invalid("runs in these states cannot be cancelled", mistake)
    return replace(which, state=states)


def cancel_many(
    session: Session,
    tenant_id: UUID,
    which: RunFilter,
    *,
    grace: timedelta,
    reason: str | None = None,
    after: UUID | None = None,
) -> Sequence[UUID]:
    """Cancel the oldest `CANCEL_BATCH` runs of the filter; gives their ids, none when done.

    `after` is the last id of the batch before: cancelled runs are not read again.
    """
    which = cancellable_filter(which)
    order = RunSort(descending=False, after=(after,) if after else None)
    batch = listing.columns(session, tenant_id, which, order, CANCEL_BATCH, ["id"])
    ids = [run.id for run in batch]
    locked = statements.rows(session, _LOCK, ids=ids)
    waiting = [run for run in locked if run.state != RunState.RUNNING]
    cancel_waiting_steps(session, waiting, reason=reason)
    for run in locked:
        if run.state == RunState.RUNNING:
            stop_run(session, run, grace=grace, reason=reason)
    return ids
