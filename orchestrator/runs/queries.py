"""Look up runs, steps and attempts."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from orchestrator.db import Row, lookups, statements, transitions
from orchestrator.errors import NotFound
from orchestrator.models import Attempt, Run, Step, numbered_or_id
from orchestrator.states import FINAL_RUNS
from orchestrator.work_limits import in_turns

_ROWS = 100  # that are made into objects at once
_FIRST_TASKS = """
    SELECT DISTINCT ON (run_id) run_id, task_id FROM steps
    WHERE run_id = ANY(CAST(:ids AS uuid[])) AND task_id IS NOT NULL ORDER BY run_id, position
"""


def get(session: Session, tenant_id: UUID, which: UUID | int) -> Run:
    """A run by id or number. Raises NotFound."""
    return lookups.find(session, Run, tenant_id, which)


def has_ended(session: Session, tenant_id: UUID, run_id: UUID) -> bool:
    """Whether a run is in a final state; cheap enough to poll. Raises NotFound."""
    state = "SELECT state FROM runs WHERE id = :id AND tenant_id = :tenant_id"
    run = statements.row(session, state, id=run_id, tenant_id=tenant_id)
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
    statement = select(Step).where(Step.run_id == run.id).order_by(Step.position)
    rows = session.scalars(statement.execution_options(populate_existing=True))
    return list(in_turns(rows.yield_per(_ROWS)))


def steps_of_runs(
    session: Session, runs: Sequence[Run], only: Sequence[str]
) -> Mapping[UUID, Sequence[Row]]:
    """Some columns of the steps of runs, by run id, in the order of the workflow."""
    by_run: dict[UUID, list[Row]] = {run.id: [] for run in runs}
    columns = (Step.run_id, *(getattr(Step, name) for name in only))
    statement = select(*columns).where(Step.run_id.in_(by_run))
    rows = session.execute(statement.order_by(Step.run_id, Step.position))
    for step in in_turns(rows.yield_per(_ROWS)):
        by_run[step.run_id].append(step)
    return by_run


def first_task_ids(session: Session, runs: Sequence[Run]) -> Mapping[UUID, str]:
    """The Celery task id of the first step of runs, by run id; of published runs only."""
    rows = statements.rows(session, _FIRST_TASKS, ids=[run.id for run in runs])
    return {row.run_id: row.task_id for row in rows}


def step(session: Session, run: Run, which: str | int) -> Step:
    """One step of a run by key or number. Raises NotFound."""
    matches = numbered_or_id(Step, which) if isinstance(which, int) else Step.key == which
    step = session.scalar(select(Step).where(Step.run_id == run.id, matches))
    if step is None:
        raise NotFound(f"run {run.id} has no step {which!r}")
    return step


def step_by_number(session: Session, tenant_id: UUID, number: int) -> tuple[Run, Step]:
    """A step by number, with its run. Raises NotFound."""
    statement = select(Run, Step).join(Step, Step.run_id == Run.id)
    statement = statement.where(numbered_or_id(Step, number), Run.tenant_id == tenant_id)
    row = session.execute(statement.execution_options(populate_existing=True)).first()
    if row is None:
        raise NotFound(f"there is no step {number}")
    return row.Run, row.Step


def attempts(session: Session, step: Step) -> list[Attempt]:
    """The attempts of a step, by number."""
    statement = select(Attempt).where(Attempt.step_id == step.id).order_by(Attempt.number)
    return list(session.scalars(statement))


def lock(session: Session, tenant_id: UUID, run_id: UUID) -> Row:
    """The columns of a run that decide, with its row lock. Raises NotFound."""
    run = transitions.lock_run(session, run_id, tenant_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run
