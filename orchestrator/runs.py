"""What a caller may do with runs that are there: look, cancel, change."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from orchestrator import events, flow, limits, store
from orchestrator.definitions import numbered_or_id
from orchestrator.errors import InvalidTransition, NotFound
from orchestrator.models import Attempt, Run, Step
from orchestrator.states import (
    FINAL_RUNS,
    RunState,
    RunTransition,
    StepTransition,
)
from orchestrator.store import Found

_ASKED = """
    cancel_requested_at = coalesce(cancel_requested_at, now()),
    cancel_reason = coalesce(cancel_reason, CAST(:reason AS text))
"""
_STOPPING = (
    f"{_ASKED}, timed_out = :timed_out, stop_by = now() + CAST(:grace AS interval), error = :error"
)
_REPRIORITISE = """
    WITH run AS (UPDATE runs SET priority = :priority WHERE id = :id)
    UPDATE steps SET priority = :priority
    WHERE run_id = :id AND state IN ('pending', 'queued', 'running', 'waiting')
"""
_SOONER = """
    UPDATE runs SET stop_by = least(stop_by, now() + CAST(:grace AS interval)) WHERE id = :id
"""
_FIRST_TASKS = """
    SELECT DISTINCT ON (run_id) run_id, task_id FROM steps
    WHERE run_id = ANY(CAST(:ids AS uuid[])) AND task_id IS NOT NULL ORDER BY run_id, position
"""
_ANNOTATE = """
    UPDATE runs SET annotations = annotations || CAST(:more AS jsonb) WHERE id = :id
"""


def get(session: Session, tenant_id: UUID, which: UUID | int) -> Run:
    """A run by id or number. Raises NotFound."""
    asked = select(Run).where(numbered_or_id(Run, which), Run.tenant_id == tenant_id)
    run = session.scalar(asked.execution_options(populate_existing=True))
    if run is None:
        raise NotFound(f"there is no run {which}")
    return run


def has_ended(session: Session, tenant_id: UUID, run_id: UUID) -> bool:
    """Whether a run has, for who asks again and again. Raises NotFound."""
    asked = "SELECT state FROM runs WHERE id = :id AND tenant_id = :tenant_id"
    run = store.row(session, asked, id=run_id, tenant_id=tenant_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run.state in FINAL_RUNS


def get_whole(session: Session, tenant_id: UUID, run_id: UUID) -> Run:
    """A run by id with its `steps`. Raises NotFound."""
    run = get(session, tenant_id, run_id)
    set_committed_value(run, "steps", steps(session, run))
    return run


def steps(session: Session, run: Run) -> list[Step]:
    """The steps of a run, in the order of its workflow."""
    asked = select(Step).where(Step.run_id == run.id).order_by(Step.position)
    return list(session.scalars(asked.execution_options(populate_existing=True)))


def steps_of(
    session: Session, runs: Sequence[Run], only: Sequence[str]
) -> Mapping[UUID, Sequence[Row[Any]]]:
    """Some columns of the steps of several runs, by the run's id, in the order of its workflow."""
    found: dict[UUID, list[Row[Any]]] = {run.id: [] for run in runs}
    columns = (Step.run_id, *(getattr(Step, name) for name in only))
    asked = select(*columns).where(Step.run_id.in_(found)).order_by(Step.run_id, Step.position)
    for step in session.execute(asked):
        found[step.run_id].append(step)
    return found


def first_tasks(session: Session, runs: Sequence[Run]) -> Mapping[UUID, str]:
    """Celery's id of the message that each run began with, by the run's id; none before that."""
    found = store.rows(session, _FIRST_TASKS, ids=[run.id for run in runs])
    return {row.run_id: row.task_id for row in found}


def step(session: Session, run: Run, which: str | int) -> Step:
    """One step of a run by key or number. Raises NotFound."""
    right = numbered_or_id(Step, which) if isinstance(which, int) else Step.key == which
    found = session.scalar(select(Step).where(Step.run_id == run.id, right))
    if found is None:
        raise NotFound(f"run {run.id} has no step {which!r}")
    return found


def step_by_number(session: Session, tenant_id: UUID, number: int) -> tuple[Run, Step]:
    """A step by number, with its run. Raises NotFound."""
    asked = select(Run, Step).join(Step, Step.run_id == Run.id)
    asked = asked.where(numbered_or_id(Step, number), Run.tenant_id == tenant_id)
    found = session.execute(asked.execution_options(populate_existing=True)).first()
    if found is None:
        raise NotFound(f"there is no step {number}")
    return found.Run, found.Step


def attempts(session: Session, step: Step) -> list[Attempt]:
    """Every try of a step, the first one first."""
    asked = select(Attempt).where(Attempt.step_id == step.id).order_by(Attempt.number)
    return list(session.scalars(asked))


def cancel(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    grace: timedelta,
    reason: str | None = None,
) -> Run:
    """Stop a run: at once if no step is running, else when its steps let go or are killed.

    A second cancel may shorten the grace. Raises NotFound, and InvalidTransition if the run has
    ended.
    """
    run = locked(session, tenant_id, run_id)
    if run.state in FINAL_RUNS:
        raise InvalidTransition(f"run {run.id} is {run.state}: too late to cancel")
    return stop(session, run, grace=grace, reason=reason)


def stop(
    session: Session, run: Found, *, grace: timedelta, reason: str | None, timed_out: bool = False
) -> Run:
    """End a locked run as cancelled or timed out: open steps now, running ones in their grace."""
    if run.state in (RunState.PENDING, RunState.QUEUED):
        stop_waiting(session, [run], reason=reason)
        return get(session, run.tenant_id, run.id)
    asked = "SELECT task_id FROM steps WHERE run_id = :id AND state = 'running'"
    running = store.rows(session, asked, id=run.id)
    unclaimed = store.move_steps(session, StepTransition.CANCEL, "run_id = :id", id=run.id)
    flow.revoke(session, [*unclaimed, *running])
    error = store.json({"message": reason, "kind": "Timeout"} if timed_out else None)
    stopping = {"reason": reason, "timed_out": timed_out, "grace": grace, "error": error}
    if not store.move_run(session, run.id, RunTransition.STOP, _STOPPING, **stopping):
        store.change(session, _SOONER, id=run.id, grace=grace)
    flow.close_if_ended(session, get(session, run.tenant_id, run.id))
    return get(session, run.tenant_id, run.id)


def stop_waiting(session: Session, waiting: Sequence[Found], *, reason: str | None) -> None:
    """Cancel locked runs none of whose steps has begun."""
    ids = [run.id for run in waiting]
    which = "run_id = ANY(CAST(:ids AS uuid[]))"
    flow.revoke(session, store.move_steps(session, StepTransition.CANCEL, which, ids=ids))
    store.move_runs(session, ids, RunTransition.CANCEL, _ASKED, reason=reason)
    for run in waiting:
        if run.due:  # else it has no concurrency key to give: it waits for one itself
            limits.pass_on(session, run)


def change(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    priority: int | None = None,
    tags: Sequence[str] | None = None,
    name: str | None = None,
) -> Run:
    """Change what may be changed of a run at any time.

    Raises NotFound, and InvalidTransition for the priority of a run that has ended.
    """
    run = locked(session, tenant_id, run_id)
    if priority is not None:
        if run.state in FINAL_RUNS:
            raise InvalidTransition(f"run {run.id} is {run.state}: its priority is of no use now")
        store.change(session, _REPRIORITISE, id=run.id, priority=priority)
        before = {"before": run.priority, "after": priority}
        events.note(session, run.id, "run.reprioritised", **before)
    if tags is not None:
        tags = sorted(set(tags))
        store.change(session, "UPDATE runs SET tags = :tags WHERE id = :id", id=run.id, tags=tags)
    if name is not None:
        store.change(session, "UPDATE runs SET name = :name WHERE id = :id", id=run.id, name=name)
    return get(session, tenant_id, run_id)


def annotate(session: Session, tenant_id: UUID, run_id: UUID, **more: Any) -> None:
    """Keep something more with a run, over what has the same name. Raises NotFound."""
    run = locked(session, tenant_id, run_id)
    store.change(session, _ANNOTATE, id=run.id, more=store.json(more))


def locked(session: Session, tenant_id: UUID, run_id: UUID) -> Found:
    """A run with its row lock. Raises NotFound."""
    run = store.lock_run(session, run_id, tenant_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run
