"""Concurrency keys: of the runs of a workflow with the same key, one at a time is let on.

A slot is no counter but a row of a live run: the unique index `ix_runs_holds_key` is the limit.
Whoever holds the key gives it on when it ends; what that misses, a sweep finds.
"""

from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.models import Run

# One at a time may look whether a key is free, or two would both find it so.
_ALONE = """
    SELECT pg_advisory_xact_lock(hashtextextended(CAST(:workflow_id AS text) || :key, 0))
"""
HOLDS_KEY = (
    "({0}.state = 'pending' AND {0}.due OR {0}.state IN ('queued', 'running', 'cancelling'))"
)
WAITS_FOR_KEY = """
    (state = 'pending' AND NOT due AND NOT held AND (run_at IS NULL OR run_at <= now()))
"""
_TAKEN = f"""
    SELECT 1 FROM runs WHERE workflow_id = :workflow_id AND concurrency_key = :key
      AND concurrency_key IS NOT NULL AND id <> CAST(:run_id AS uuid)
      AND ({HOLDS_KEY.format("runs")} OR {WAITS_FOR_KEY})
    LIMIT 1
"""
_PASS_ON = f"""
    UPDATE runs SET due = true WHERE id = (
        SELECT id FROM runs
        WHERE workflow_id = :workflow_id AND concurrency_key = :key AND concurrency_key IS NOT NULL
          AND {WAITS_FOR_KEY}
        ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AND NOT EXISTS (
        SELECT FROM runs holder
        WHERE holder.workflow_id = :workflow_id AND holder.concurrency_key = :key
          AND {HOLDS_KEY.format("holder")}
    ) RETURNING id
"""
_WAITED_FOR = f"""
    SELECT DISTINCT workflow_id, concurrency_key AS key FROM runs
    WHERE concurrency_key IS NOT NULL AND {WAITS_FOR_KEY} AND NOT EXISTS (
        SELECT FROM runs holder
        WHERE holder.workflow_id = runs.workflow_id
          AND holder.concurrency_key = runs.concurrency_key
          AND {HOLDS_KEY.format("holder")})
    LIMIT :limit
"""


def try_acquire(session: Session, run_id: UUID, workflow_id: UUID, key: str) -> bool:
    """Whether this run may hold the key now: nobody else holds it, or waits for it longer.

    Until the transaction ends, nobody else is told so.
    """
    given = {"workflow_id": workflow_id, "key": key}
    statements.execute(session, _ALONE, **given)
    return statements.row(session, _TAKEN, run_id=run_id, **given) is None


def release(session: Session, run: Row | Run) -> None:
    """A run has ended: let the next one have its concurrency key, if it has one."""
    if run.concurrency_key is not None:
        given = {"workflow_id": run.workflow_id, "key": run.concurrency_key}
        statements.rows(session, _PASS_ON, **given)


def free_keys(session: Session, limit: int) -> list[tuple[UUID, str]]:
    """The keys, with their workflows, that nobody holds and somebody waits for."""
    return [
        (row.workflow_id, row.key) for row in statements.rows(session, _WAITED_FOR, limit=limit)
    ]


def grant(session: Session, workflow_id: UUID, key: str) -> int:
    """Give a key that nobody holds to the run that waits longest for it."""
    given = {"workflow_id": workflow_id, "key": key}
    statements.execute(session, _ALONE, **given)
    return len(statements.rows(session, _PASS_ON, **given))
