"""Admission: which runs and steps start next.

A queue's window bounds its unclaimed messages in the broker; the rest of the backlog stays in
Postgres, where it has an order. The bound is exceeded by a few requests that check concurrently.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby, islice
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.broker.messages import FAN_OUT
from orchestrator.db import Row, statements, transitions
from orchestrator.engine.publishing import publish
from orchestrator.models import Run
from orchestrator.states import RunTransition

_UNCLAIMED = """
    SELECT count(*) AS messages FROM (
        SELECT FROM steps WHERE queue = :queue AND state = 'queued' AND published_at IS NOT NULL
        LIMIT :window
    ) unclaimed
"""

# Reads other tenants' work, so it is a function that runs as the owner of the tables.
_MAY_START = "id = :id AND may_start(id, queue, priority, :window)"

_RUNS_OF_QUEUE = """
    state = 'pending' AND due AND queue = queue_uses.name AND tenant_id = queue_uses.tenant_id
"""
_STEPS_OF_QUEUE = "queue = queue_uses.name AND state = 'queued' AND published_at IS NULL"
_QUEUES_WITH_WORK = statements.in_turn(
    "name",
    "queue_uses",
    f"{statements.exist('runs', _RUNS_OF_QUEUE, 'queue')}"
    f" OR {statements.exist('steps', _STEPS_OF_QUEUE, 'queue')}",
)

# Each tenant's steps by age, then tenants in turn.
_UNPUBLISHED = f"""
    SELECT step.*, turn FROM (
        SELECT id, priority, row_number() OVER (
            PARTITION BY tenant_id, priority ORDER BY run_id, position) AS turn
        FROM steps WHERE queue = :queue AND state = 'queued' AND published_at IS NULL
        ORDER BY priority DESC, turn LIMIT :limit
    ) next, LATERAL (
        SELECT {transitions.STEP_COLUMNS}, tenant_id FROM steps WHERE id = next.id LIMIT 1
    ) step
    ORDER BY step.priority DESC, turn
"""

# Each tenant's first runs by rank, then tenants in turn; the cost does not grow with the backlog.
# Unlike a step, a run has no `id` here.
_RANKED = """
    SELECT NULL AS id, mine.id AS run_id, mine.priority, tenants.id AS tenant_id,
        row_number() OVER (PARTITION BY tenants.id, mine.priority ORDER BY mine.number) AS turn
    FROM tenants, LATERAL (
        SELECT id, number, priority FROM runs
        WHERE tenant_id = tenants.id AND queue = :queue AND state = 'pending' AND due
        ORDER BY priority DESC, number LIMIT :limit
    ) mine
    ORDER BY mine.priority DESC, turn, mine.id LIMIT :limit
"""


def queues_with_work(session: Session, limit: int) -> list[str]:
    """Queues in which a run or step waits, those of each tenant in turn."""
    return [row.name for row in statements.rows(session, _QUEUES_WITH_WORK, limit=limit)]


def room(session: Session, queue: str, window: int) -> int:
    """How many more messages the queue's window has room for."""
    unclaimed = statements.row(session, _UNCLAIMED, queue=queue, window=window)
    return window - int(unclaimed.messages if unclaimed else 0)


def admit_at_once(session: Session, run: Run, window: int) -> None:
    """Admit a new run without the scheduler, if the window has room and no run ranks before it."""
    if run.due:
        _admit(session, _MAY_START, id=run.id, window=window)


def admit_runs(session: Session, run_ids: Sequence[UUID]) -> None:
    """Queue the runs, and publish those of their steps that need nothing."""
    _admit(session, "id = ANY(:ids)", ids=list(run_ids))


def _admit(session: Session, where: str, **params: Any) -> None:
    admitted = transitions.runs(session, RunTransition.ADMIT).where(where, **params)
    ready = admitted.set("queued_at = now()").ready_steps()  # in the order of their runs
    by_run = groupby(ready, key=lambda step: step.run_id)
    publish(session, [step for _, steps in by_run for step in islice(steps, FAN_OUT)])


def next_work(session: Session, queue: str, limit: int) -> tuple[list[Row], list[UUID]]:
    """The next `limit` unpublished steps and pending runs of a queue, their runs locked.

    Ranked by priority; then tenants in turn; of a tenant, steps of runs that have begun go before
    runs, and both by age.
    """
    steps = statements.rows(session, _UNPUBLISHED, queue=queue, limit=limit)
    runs = statements.rows(session, _RANKED, queue=queue, limit=limit)
    begun = Counter((step.tenant_id, step.priority) for step in steps)

    def rank(each: Row) -> tuple[int, int]:
        return -each.priority, each.turn + (0 if each.id else begun[each.tenant_id, each.priority])

    ranked = sorted([*steps, *runs], key=rank)[:limit]
    locked = transitions.lock_unlocked_runs(session, {each.run_id for each in ranked})
    free = [each for each in ranked if each.run_id in locked]
    return [each for each in free if each.id], [each.run_id for each in free if not each.id]
