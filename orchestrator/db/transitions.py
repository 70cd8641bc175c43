"""Guarded changes of state of runs and steps: the row lock, the UPDATE, the test for readiness.

Whoever changes a run or its steps holds the run's row lock. This is SQL with plain rows, not mapped
objects: a step costs a dozen such statements, and the mapper took more time than Postgres.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Literal, Self
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, journal
from orchestrator.db.statements import row, rows
from orchestrator.states import (
    RunTransition,
    SkipCause,
    StepState,
    StepTransition,
    Transition,
)

Table = Literal["runs", "steps"]

# The columns that decisions need. Reading all sixty columns of a run took longer than locking it.
RUN_COLUMNS = """
    id, tenant_id, workflow_id, workflow, queue, state, due, held, priority, concurrency_key, error,
    timed_out
"""

STEP_COLUMNS = """
    id, run_id, position, key, state, attempt, task_id, queue, priority
"""


def lock_run(session: Session, run_id: UUID, tenant_id: UUID | None = None) -> Row | None:
    """Lock a run's row; None when there is no such run (of this tenant)."""
    run = row(session, f"SELECT {RUN_COLUMNS} FROM runs WHERE id = :id FOR UPDATE", id=run_id)
    return run if run is None or tenant_id in (None, run.tenant_id) else None


def lock_unlocked_runs(session: Session, run_ids: Collection[UUID]) -> set[UUID]:
    """Lock those of the runs that no other transaction has locked; returns their ids."""
    statement = "SELECT id FROM runs WHERE id = ANY(:ids) FOR UPDATE SKIP LOCKED"
    return {run.id for run in rows(session, statement, ids=list(run_ids))}


def runs(session: Session, transition: RunTransition) -> "Move":
    """Begin a transition of runs: `runs(session, STOP).where("id = :id", id=…).one()`."""
    return Move(session, "runs", transition)


def steps(session: Session, transition: StepTransition) -> "Move":
    """Begin a transition of steps."""
    return Move(session, "steps", transition)


class Move:
    """Compare and set: moves the rows that are still in one of the transition's sources.

    Nothing else changes a `state` column, so each change of state is an entry of the table in
    `states` and leaves an event in the same transaction.
    """

    def __init__(self, session: Session, table: Table, transition: Transition) -> None:
        self._session, self._table, self._transition = session, table, transition
        self._where = self._set = ""
        self._params: dict[str, Any] = {}

    def where(self, condition: str, **params: Any) -> Self:
        """Move only the rows for which the condition holds."""
        self._where, self._params = condition, self._params | params
        return self

    def set(self, values: str, **params: Any) -> Self:
        """Set more columns in the same UPDATE."""
        self._set, self._params = values, self._params | params
        return self

    def all(self) -> list[Row]:
        """The moved rows; steps in the order of their run."""
        moved = self._moved(_update(self._table, self._transition, self._where, self._set))
        return sorted(moved, key=_place) if self._table == "steps" else list(moved)

    def one(self) -> Row | None:
        """The moved row, or None when it could not make the transition."""
        moved = self._moved(_update(self._table, self._transition, self._where, self._set))
        return moved[0] if moved else None

    def ready_steps(self) -> list[Row]:
        """Move runs and queue their steps that need nothing, in one statement; gives the steps."""
        statement = _update_runs_and_ready(self._transition, self._where, self._set)
        moved = rows(self._session, statement, **self._params)
        for run_id in dict.fromkeys(each.moved for each in moved):
            journal.record_event(self._session, run_id, self._transition.event)
        ready = [each for each in moved if each.id is not None]
        self._record(ready, StepTransition.READY)
        return sorted(ready, key=_place)

    def _moved(self, statement: str) -> Sequence[Row]:
        moved = rows(self._session, statement, **self._params)
        self._record(moved, self._transition)
        return moved

    def _record(self, moved: Sequence[Row], transition: Transition) -> None:
        for each in moved:
            if isinstance(transition, RunTransition):
                journal.record_event(self._session, each.id, transition.event)
            else:
                step = {"step": each.key, "attempt": each.attempt or None}
                journal.record_event(self._session, each.run_id, transition.event, **step)


def _place(step: Row) -> tuple[UUID, int]:
    return step.run_id, step.position


@cache
def _update(table: Table, transition: Transition, where: str, values: str) -> str:
    """The guarded UPDATE of a transition."""
    changed = [f"state = '{transition.target}'", *([values] if values else [])]
    if transition.ends:
        changed.append("finished_at = clock_timestamp()")
    if transition.reopens:
        changed.append("finished_at = NULL")
    guard = f"state IN ({sql_list(transition.sources)}) AND {where}"
    columns = RUN_COLUMNS if table == "runs" else STEP_COLUMNS
    return f"UPDATE {table} SET {', '.join(changed)} WHERE {guard} RETURNING {columns}"


@cache
def _update_runs_and_ready(transition: RunTransition, where: str, values: str) -> str:
    """A transition of runs, and of their steps that need nothing."""
    of_moved = f"run_id IN (SELECT id FROM moved) AND {NEEDS_MET}"
    ready = _update("steps", StepTransition.READY, of_moved, _QUEUED)
    return f"""
        WITH moved AS ({_update("runs", transition, where, values)}), ready AS ({ready})
        SELECT moved.id AS moved, ready.* FROM moved LEFT JOIN ready ON ready.run_id = moved.id
    """


def sql_list(states: Collection[str]) -> str:
    """States or events as the list of an SQL `IN`."""
    return ", ".join(f"'{state}'" for state in sorted(states))


# `states.satisfies`, in SQL; a test compares the two.
SATISFIED = (
    f"(need.state = '{StepState.SUCCEEDED}'"
    f" OR need.state = '{StepState.SKIPPED}' AND need.skip_cause <> '{SkipCause.UPSTREAM}'"
    f" OR need.state = '{StepState.FAILED}' AND need.allow_failure)"
)

# LIMIT makes this one index look-up for each need; a join would read every step of the run.
NEEDS = """unnest(steps.needs) AS wanted(key), LATERAL (
    SELECT * FROM steps needed
    WHERE needed.run_id = steps.run_id AND needed.key = wanted.key LIMIT 1
) need"""
NEEDS_MET = f"NOT EXISTS (SELECT FROM {NEEDS} WHERE NOT coalesce({SATISFIED}, false))"

_QUEUED = "queued_at = now(), published_at = NULL"
