"""The SQL that races: the row lock, the guarded UPDATE, and the test for readiness.

One rule makes the rest simple: whoever changes a run or its steps holds the run's row lock.

This is written as SQL and read as plain rows, not as mapped objects: a step costs a dozen such
statements, and the mapper took more time over them than Postgres did.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, journal
from orchestrator.db.statements import row, rows
from orchestrator.states import (
    OPEN_STEPS,
    RunTransition,
    SkipCause,
    StepState,
    StepTransition,
    Transition,
    run_outcome,
)

Table = Literal["runs", "steps"]

# What decides over a run or a step. To read all sixty columns of a run took longer than to lock it.
RUN_COLUMNS = """
    id, tenant_id, workflow_id, workflow, queue, state, due, held, priority, concurrency_key, error,
    timed_out
"""

STEP_COLUMNS = """
    id, run_id, position, key, uses, state, skip_cause, attempt, generation, task_id, queue,
    priority, allow_failure, dependents, followers, spec, error, published_at, started_at
"""


def lock_run(session: Session, run_id: UUID, tenant_id: UUID | None = None) -> Row | None:
    """Take the row lock of a run; None when there is no such run (of this tenant)."""
    found = row(session, f"SELECT {RUN_COLUMNS} FROM runs WHERE id = :id FOR UPDATE", id=run_id)
    return found if found is None or tenant_id in (None, found.tenant_id) else None


def lock_unlocked_runs(session: Session, run_ids: Collection[UUID]) -> set[UUID]:
    """Lock those of the runs that nobody else holds; the others are busy, and come another time."""
    free = "SELECT id FROM runs WHERE id = ANY(:ids) FOR UPDATE SKIP LOCKED"
    return {found.id for found in rows(session, free, ids=list(run_ids))}


def move_run(
    session: Session, run_id: UUID, transition: RunTransition, values: str = "", **given: Any
) -> Row | None:
    """Make the transition, or return None when the run may not make it.

    `values` is more of the statement's SET.
    """
    moved = _move(session, "runs", transition, "id = :run_id", values, {"run_id": run_id, **given})
    return moved[0] if moved else None


def move_runs(
    session: Session,
    run_ids: Sequence[UUID],
    transition: RunTransition,
    values: str = "",
    **given: Any,
) -> list[Row]:
    """Make the transition for those of the runs that may make it."""
    given = {"ids": list(run_ids), **given}
    return _move(session, "runs", transition, "id = ANY(:ids)", values, given)


def move_runs_on(
    session: Session, transition: RunTransition, which: str, values: str, **given: Any
) -> list[Row]:
    """Make the transition for those of the runs that may make it, and queue what may begin then.

    All in one statement; gives the steps that it queued, in the order of each run.
    """
    found = rows(session, _update_runs_on(transition, which, values), **given, continues=None)
    for run_id in dict.fromkeys(each.moved for each in found):
        journal.record_event(session, run_id, transition.event)
    ready = [each for each in found if each.id is not None]
    for step in ready:
        _note(session, "steps", StepTransition.READY, step)
    return sorted(ready, key=lambda step: (step.run_id, step.position))


def move_steps(
    session: Session, transition: StepTransition, which: str, values: str = "", **given: Any
) -> list[Row]:
    """Make the transition for those of the steps that may make it, in the order of the run.

    `which` is more of the statement's WHERE, `values` more of its SET.
    """
    moved = _move(session, "steps", transition, which, values, given)
    return sorted(moved, key=lambda step: (step.run_id, step.position))


def move_step(
    session: Session,
    transition: StepTransition,
    which: str,
    values: str,
    then: str,
    found: str,
    **given: Any,
) -> Row | None:
    """Make the transition for one step, or return None when it may not make it.

    `then` is a statement that goes along, and finds the step as `moved`; `found` is what is
    returned, and from where.
    """
    moved = _move(session, "steps", transition, which, values, given, then, found)
    return moved[0] if moved else None


def move_step_on(
    session: Session,
    transition: StepTransition,
    which: str,
    values: str,
    then: str,
    **given: Any,
) -> tuple[Row | None, list[Row]]:
    """Make the transition for one step, and queue what it lets begin.

    All in one statement, with `then`: it sees the steps as they were before, so the step itself is
    left out where needs are looked at. A run that does not go on has no step left that could begin.
    """
    moved = rows(session, _update_on(transition, which, values, then), **given)
    for each in moved[:1]:
        _note(session, "steps", transition, each)
    for each in moved[1:]:
        _note(session, "steps", StepTransition.READY, each)
    return (moved[0] if moved else None), sorted(moved[1:], key=lambda step: step.position)


def has_open_steps(session: Session, run_id: UUID) -> bool:
    """Whether any step of the run is not in a terminal state.

    A pending one waits for an open one above it, so the small index of the active ones tells.
    """
    is_open = f"SELECT 1 FROM steps WHERE run_id = :id AND state IN ({_ACTIVE}) LIMIT 1"
    return row(session, is_open, id=run_id) is not None


def outcome_of(session: Session, run_id: UUID) -> RunTransition:
    """How a run ends none of whose steps is open."""
    ends = "SELECT DISTINCT state, skip_cause, allow_failure FROM steps WHERE run_id = :id"
    found = rows(session, ends, id=run_id)
    return run_outcome((end.state, end.skip_cause, end.allow_failure) for end in found)


def _move(
    session: Session,
    table: Table,
    transition: Transition,
    which: str,
    values: str,
    given: dict[str, Any],
    then: str = "",
    found: str = "",
) -> list[Row]:
    """Compare and set: move the rows that are still in one of the sources.

    Nothing else in the project changes a `state` column, so every change of state is a row of
    the table in `states` and leaves an event in the same transaction.
    """
    moved = rows(session, _update(table, transition, which, values, then, found), **given)
    for each in moved:
        _note(session, table, transition, each)
    return list(moved)


def _note(session: Session, table: Table, transition: Transition, moved: Row) -> None:
    if table == "runs":
        journal.record_event(session, moved.id, transition.event)
    else:
        attempt = moved.attempt or None
        journal.record_event(
            session, moved.run_id, transition.event, step=moved.key, attempt=attempt
        )


@cache
def _update(
    table: Table, transition: Transition, which: str, values: str, then: str = "", found: str = ""
) -> str:
    """The one statement that a transition is, with what goes along."""
    changed = [f"state = '{transition.target}'", *([values] if values else [])]
    if transition.ends:
        changed.append("finished_at = clock_timestamp()")
    if transition.reopens:
        changed.append("finished_at = NULL")
    sources = _listed(transition.sources)
    where = f"state IN ({sources}) AND {which}"
    columns = RUN_COLUMNS if table == "runs" else STEP_COLUMNS
    update = f"UPDATE {table} SET {', '.join(changed)} WHERE {where} RETURNING {columns}"
    if not then:
        return update
    return f"WITH moved AS ({update}), following AS ({then}) SELECT {found}"


@cache
def _update_runs_on(transition: RunTransition, which: str, values: str) -> str:
    """A transition of runs, and those of their steps that need nothing."""
    of_moved = f"run_id IN (SELECT id FROM moved) AND {NEEDS_MET}"
    ready = _update("steps", StepTransition.READY, of_moved, QUEUED)
    return f"""
        WITH moved AS ({_update("runs", transition, which, values)}), ready AS ({ready})
        SELECT moved.id AS moved, ready.* FROM moved LEFT JOIN ready ON ready.run_id = moved.id
    """


@cache
def _update_on(transition: StepTransition, which: str, values: str, then: str) -> str:
    """A transition of a step, and those of the steps that need nothing more then."""
    update = _update("steps", transition, which, values)
    next_ones = f"""
        EXISTS (SELECT FROM moved need WHERE {SATISFIED})
        AND run_id = (SELECT run_id FROM moved)
        AND key = ANY(ARRAY(SELECT unnest(dependents) FROM moved)) AND {_NEEDS_MET_BUT_MOVED}
    """
    ready = _update("steps", StepTransition.READY, next_ones, QUEUED)
    return f"""
        WITH moved AS ({update}), following AS ({then}), ready AS ({ready})
        SELECT {STEP_COLUMNS} FROM moved UNION ALL SELECT {STEP_COLUMNS} FROM ready
    """


def _listed(states: Collection[str]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


_ACTIVE = _listed(OPEN_STEPS - {StepState.PENDING})

# `states.satisfies`, in SQL; a test holds the two together.
SATISFIED = (
    f"(need.state = '{StepState.SUCCEEDED}'"
    f" OR need.state = '{StepState.SKIPPED}' AND need.skip_cause <> '{SkipCause.UPSTREAM}'"
    f" OR need.state = '{StepState.FAILED}' AND need.allow_failure)"
)

# LIMIT keeps this one look-up for each need; as a join it would read every step of the run.
_NEEDS_MET = f"""
    NOT EXISTS (
        SELECT FROM unnest(steps.needs) AS wanted(key), LATERAL (
            SELECT * FROM steps needed
            WHERE needed.run_id = steps.run_id AND needed.key = wanted.key LIMIT 1
        ) need
        WHERE NOT coalesce({SATISFIED}, false){{}}
    )
"""
NEEDS_MET = _NEEDS_MET.format("")
_NEEDS_MET_BUT_MOVED = _NEEDS_MET.format(" AND wanted.key NOT IN (SELECT key FROM moved)")

# Of steps that become ready; the message of the task `continues` is on its way.
QUEUED = "queued_at = now(), published_at = CASE WHEN task_id = :continues THEN now() END"
