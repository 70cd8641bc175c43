"""What may start now: publishing, the window, admission, and what follows when a step has ended.

A queue's window bounds its unclaimed messages in the broker; all other backlog stays in Postgres,
where it has an order. The bound is soft by the few requests that look at the same moment.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import limits, store
from orchestrator.messages import Message, outgoing
from orchestrator.models import Run
from orchestrator.states import (
    RunState,
    RunTransition,
    SkipCause,
    StepState,
    StepTransition,
    satisfies,
)
from orchestrator.store import Found

# So many steps of one run are published at once when they become ready together; the scheduler
# publishes the rest as the window empties.
FAN_OUT = 16
_NAME_SHOWN = 32  # characters; a longer one would push a chain's message over 2 KiB

_UNCLAIMED = """
    SELECT count(*) AS messages FROM (
        SELECT FROM steps WHERE queue = :queue AND state = 'queued' AND published_at IS NOT NULL
        LIMIT :window
    ) unclaimed
"""
# Looks at other tenants' work too, and so is a function that row-level security does not bind.
_MAY_START = "id = :id AND may_start(id, queue, priority, :window)"
# A run that was reopened for one step fails by another one, which it kept.
_BLAME = """
    UPDATE runs SET error = (
        SELECT jsonb_build_object('step', key) || coalesce(steps.error, '{}') FROM steps
        WHERE run_id = :id AND state = 'failed' AND NOT allow_failure ORDER BY position LIMIT 1
    ) WHERE id = :id AND error IS NULL
"""
_PUBLISH = """
    UPDATE steps SET
        generation = steps.generation + 1,
        task_id = steps.id || '.' || (steps.generation + 1),
        published_at = CASE WHEN steps.state = 'queued' THEN now() END
    FROM unnest(CAST(:run_ids AS uuid[]), CAST(:keys AS text[])) AS line(run_id, key), runs
    WHERE steps.run_id = line.run_id AND steps.key = line.key AND runs.id = steps.run_id
      AND steps.state IN ('pending', 'queued')
    RETURNING steps.run_id, steps.key, steps.task_id, steps.queue, steps.priority, steps.attempt,
        runs.workflow
"""
_UNPUBLISHED = f"""
    SELECT {store.STEP} FROM steps
    WHERE queue = :queue AND state = 'queued' AND published_at IS NULL
    ORDER BY priority DESC, run_id, position LIMIT :limit
"""
# Each tenant's first ones by rank, then the tenants in turn: its cost does not grow with a backlog.
_RANKED = """
    SELECT mine.id, mine.priority FROM tenants, LATERAL (
        SELECT id, number, priority FROM runs
        WHERE tenant_id = tenants.id AND queue = :queue AND state = 'pending' AND due
        ORDER BY priority DESC, number LIMIT :limit
    ) mine
    ORDER BY mine.priority DESC,
        row_number() OVER (PARTITION BY tenants.id, mine.priority ORDER BY mine.number), mine.number
    LIMIT :limit
"""


def room(session: Session, queue: str, window: int) -> int:
    """How many more messages the queue's window has room for."""
    found = store.row(session, _UNCLAIMED, queue=queue, window=window)
    return window - int(found.messages if found else 0)


def admit_at_once(session: Session, run: Run, window: int) -> None:
    """Admit a new run without the scheduler, if the window has room and nobody ranks before it."""
    if run.due:
        _admit(session, _MAY_START, id=run.id, window=window)


def admit(session: Session, run_ids: Sequence[UUID]) -> None:
    """Queue the runs, and publish the steps of theirs that need nothing."""
    _admit(session, "id = ANY(:ids)", ids=list(run_ids))


def _admit(session: Session, which: str, **given: Any) -> None:
    ready = store.move_runs_on(session, RunTransition.ADMIT, which, "queued_at = now()", **given)
    publish(session, _first_of_each(ready))


def publish(session: Session, steps: Sequence[Found]) -> None:
    """Give each step, and the steps that follow it in a line, a new message.

    The messages are sent after the commit. A message of an older generation is stale from then on.
    """
    if not steps:
        return
    lines = [(step.run_id, [step.key, *step.followers]) for step in steps]
    run_ids = [run_id for run_id, line in lines for _ in line]
    keys = [key for _, line in lines for key in line]
    told = store.rows(session, _PUBLISH, run_ids=run_ids, keys=keys)
    messages = {(row.run_id, row.key): _message(row) for row in told}
    for run_id, line in lines:
        segment = _unbroken(messages.get((run_id, key)) for key in line)
        if segment:
            outgoing(session).messages.append((segment[0], segment[1:]))


def waiting_work(session: Session, queue: str, limit: int) -> tuple[list[Found], list[UUID]]:
    """The next `limit` things to start, their runs locked: unpublished steps, and pending runs.

    Rank is priority first. At the same priority a step of a run that has begun goes before a
    new run, then tenants take turns, then the older run goes first.
    """
    steps = store.rows(session, _UNPUBLISHED, queue=queue, limit=limit)
    runs = store.rows(session, _RANKED, queue=queue, limit=limit)
    ranked = [(step.run_id, step) for step in steps] + [(run.id, run) for run in runs]
    ranked = sorted(ranked, key=lambda each: -each[1].priority)[:limit]
    locked = store.lock_free(session, {run_id for run_id, _ in ranked})
    begun = {step.id for step in steps}
    free = [each for run_id, each in ranked if run_id in locked]
    return (
        [each for each in free if each.id in begun],
        [each.id for each in free if each.id not in begun],
    )


def queues(session: Session) -> list[str]:
    """The names that workflows have used."""
    return [row.name for row in store.rows(session, "SELECT name FROM queues")]


def go_on(session: Session, run: Found | None, step: Found, ready: Sequence[Found]) -> bool:
    """Do what follows from a step that has ended, under the run's lock.

    `ready` has the steps that may begin now. Those whose message is not on its way get one after
    the commit; True means that one is: Celery should publish the chain's next task. The run is
    read where it matters, unless it is known.
    """
    if ready:
        publish(session, [each for each in ready if each.published_at is None][:FAN_OUT])
        return any(each.published_at is not None for each in ready)
    run = run or store.lock_run(session, step.run_id)
    assert run is not None
    ended = step.state in (StepState.SUCCEEDED, StepState.SKIPPED, StepState.FAILED)
    if ended and not satisfies(step.state, step.skip_cause, step.allow_failure):
        give_up(session, run, step)
    else:
        close_if_ended(session, run)
    return False


def close_if_ended(session: Session, run: Found | Run) -> None:
    """End the run if it has no open step, under its lock."""
    if store.has_open_steps(session, run.id):
        return
    if run.state == RunState.CANCELLING:
        transition = RunTransition.TIME_OUT if run.timed_out else RunTransition.STOPPED
    else:
        transition = store.outcome_of(session, run.id)
    if transition == RunTransition.FAIL:
        store.change(session, _BLAME, id=run.id)
    store.move_run(session, run.id, transition)
    limits.pass_on(session, run)


def give_up(session: Session, run: Found, failed: Found) -> None:
    """A step has failed for good: nothing new starts, and what runs may still end."""
    store.change(
        session,
        "UPDATE runs SET error = :error WHERE id = :id AND error IS NULL",
        id=run.id,
        error=store.json({"step": failed.key, **(failed.error or {})}),
    )
    omitted = store.move_steps(
        session,
        StepTransition.OMIT,
        "run_id = :run_id",
        f"skip_cause = '{SkipCause.UPSTREAM}'",
        run_id=run.id,
    )
    revoke(session, omitted)
    close_if_ended(session, run)


def revoke(session: Session, steps: Iterable[Found]) -> None:
    """Tell the workers, after the commit, to forget the messages of these steps."""
    outgoing(session).revoked.extend(step.task_id for step in steps if step.task_id)


def _first_of_each(ready: Sequence[Found]) -> list[Found]:
    """At most FAN_OUT steps of each run."""
    taken: dict[UUID, int] = {}
    first = []
    for step in ready:
        taken[step.run_id] = taken.get(step.run_id, 0) + 1
        if taken[step.run_id] <= FAN_OUT:
            first.append(step)
    return first


def _message(row: Found) -> Message:
    attempt = f"#{row.attempt + 1}"
    name = f"{row.workflow}/{row.key}"[: _NAME_SHOWN - len(attempt)] + attempt
    return Message(task_id=row.task_id, queue=row.queue, priority=row.priority, name=name)


def _unbroken(messages: Iterable[Message | None]) -> list[Message]:
    """The messages up to the first that was not made."""
    line = []
    for message in messages:
        if message is None:
            break
        line.append(message)
    return line
