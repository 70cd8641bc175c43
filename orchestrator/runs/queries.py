"""What a caller may do with runs that are there: look, cancel, change."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from orchestrator.db import Row, statements, transitions
from orchestrator.errors import NotFound
from orchestrator.models import Attempt, Run, Step, numbered_or_id
from orchestrator.states import (
    FINAL_RUNS,
)

_FIRST_TASKS = """
    SELECT DISTINCT ON (run_id) run_id, task_id FROM steps
    WHERE run_id = ANY(CAST(:ids AS uuid[])) AND task_id IS NOT NULL ORDER BY run_id, position
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
    run = statements.row(session, asked, id=run_id, tenant_id=tenant_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run.state in FINAL_RUNS


def get_with_steps(session: Session, tenant_id: UUID, run_id: UUID) -> Run:
    """A run by id with its `steps`. Raises NotFound."""
    run = get(session, tenant_id, run_id)
    set_committed_value(run, "steps", steps(session, run))
    return run


def steps(session: Session, run: Run) -> list[Step]:
    """The steps of a run, in the order of its workflow."""
    asked = select(Step).where(Step.run_id == run.id).order_by(Step.position)
    return list(session.scalars(asked.execution_options(populate_existing=True)))


def steps_of_runs(
    session: Session, runs: Sequence[Run], only: Sequence[str]
) -> Mapping[UUID, Sequence[Row]]:
    """Some columns of the steps of several runs, by the run's id, in the order of its workflow."""
    found: dict[UUID, list[Row]] = {run.id: [] for run in runs}
    columns = (Step.run_id, *(getattr(Step, name) for name in only))
    asked = select(*columns).where(Step.run_id.in_(found)).order_by(Step.run_id, Step.position)
    for step in session.execute(asked):
        found[step.run_id].append(step)
    return found


def first_tasks(session: Session, runs: Sequence[Run]) -> Mapping[UUID, str]:
    """Celery's id of the message that each run began with, by the run's id; none before that."""
    found = statements.rows(session, _FIRST_TASKS, ids=[run.id for run in runs])
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


def lock(session: Session, tenant_id: UUID, run_id: UUID) -> Row:
    """A run with its row lock. Raises NotFound."""
    run = transitions.lock_run(session, run_id, tenant_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run
