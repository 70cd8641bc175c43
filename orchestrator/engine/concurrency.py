"""Concurrency keys: of the runs of a workflow with the same key, one at a time is admitted.

The unique index `ix_runs_holds_key` over live runs is the limit; there is no counter. Where several
runs may go on at once, each of their slots has a key. A run that ends passes its key on in the same
transaction; the sweep `grant_free_keys` handles the rest.
"""

import re
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.models import Run

# One transaction at a time may check whether a key is free, or two would both get yes.
_LOCK_KEY = "SELECT pg_advisory_xact_lock(hashtextextended(CAST(:workflow_id AS text) || :key, 0))"
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
_SLOT = re.compile(r"(schedule:[^#]*)#[0-9]{1,4}/([0-9]{1,4})")  # as in `slots_of`
_HELD = f"""
    SELECT concurrency_key AS key FROM runs
    WHERE workflow_id = :workflow_id AND concurrency_key = ANY(:keys)
      AND concurrency_key IS NOT NULL AND {HOLDS_KEY.format("runs")}
"""
_GRANT = "SELECT grant_key(:workflow_id, :key) AS granted"
_WAITED_FOR = f"""
    SELECT workflow_id, concurrency_key AS key FROM runs
    WHERE concurrency_key IS NOT NULL AND {WAITS_FOR_KEY} {{}}
    ORDER BY workflow_id, concurrency_key LIMIT 1
"""
_AFTER = "AND (workflow_id, concurrency_key) > (waited_for.workflow_id, waited_for.key)"
_FREE = f"""
    SELECT DISTINCT ON (workflow_id, key) tenant_id, workflow_id || ' ' || slot AS key
    FROM waited_for JOIN workflows ON workflows.id = workflow_id, slots_of(waited_for.key) AS slot
    WHERE NOT EXISTS (
        SELECT FROM runs holder
        WHERE holder.workflow_id = waited_for.workflow_id
          AND holder.concurrency_key = slot AND {HOLDS_KEY.format("holder")})
"""
# A loose index scan from key to key: the cost does not grow with the runs that wait for one.
_FREE_KEYS = f"""
    WITH RECURSIVE waited_for AS (
        ({_WAITED_FOR.format("")})
        UNION ALL
        SELECT next.* FROM waited_for, LATERAL ({_WAITED_FOR.format(_AFTER)}) next
    )
    {statements.in_turn("key", f"({_FREE}) free", "true")}
"""


def slot_of(session: Session, workflow_id: UUID, name: str, limit: int) -> str:
    """The key of a free slot of several runs at once, or the first one if none is free.

    Takes an advisory lock until the transaction ends, so that no other one gets the same slot.
    """
    slots = [f"{name}#{slot}/{limit}" for slot in range(limit)]
    statements.execute(session, _LOCK_KEY, workflow_id=workflow_id, key=f"{name}#")
    rows = statements.rows(session, _HELD, workflow_id=workflow_id, keys=slots)
    held = {row.key for row in rows}
    return next((slot for slot in slots if slot not in held), slots[0])


def present_key(session: Session, workflow_id: UUID, key: str | None) -> str | None:
    """The key that a run needs to run again: for that of a slot, that of one that is free now."""
    slot = _SLOT.fullmatch(key or "")
    return slot_of(session, workflow_id, slot[1], int(slot[2])) if slot else key


def try_acquire(session: Session, run_id: UUID, workflow_id: UUID, key: str) -> bool:
    """Whether this run may hold the key: no other run holds it or has waited longer for it.

    Takes an advisory lock until the transaction ends, so that no other one gets the same answer.
    """
    params = {"workflow_id": workflow_id, "key": key}
    statements.execute(session, _LOCK_KEY, **params)
    return statements.row(session, _TAKEN, run_id=run_id, **params) is None


def release(session: Session, run: Row | Run) -> None:
    """Pass the concurrency key of a run that has ended to the next one, if it has a key."""
    if run.concurrency_key is not None:
        params = {"workflow_id": run.workflow_id, "key": run.concurrency_key}
        statements.execute(session, _GRANT, **params)


def free_keys(session: Session, limit: int) -> list[tuple[UUID, str]]:
    """The keys that no run holds and some run waits for, each with its workflow."""
    free = (row.key.partition(" ") for row in statements.rows(session, _FREE_KEYS, limit=limit))
    return [(UUID(workflow_id), key) for workflow_id, _, key in free]


def grant(session: Session, workflow_id: UUID, key: str) -> int:
    """Give a free key to the run that has waited longest for it; returns 0 or 1."""
    params = {"workflow_id": workflow_id, "key": key}
    statements.execute(session, _LOCK_KEY, **params)
    granted = statements.row(session, _GRANT, **params)
    return int(granted.granted) if granted else 0
