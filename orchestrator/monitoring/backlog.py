"""Runs that wait for admission: exact counts and positions, without counting rows of `runs`.

A trigger on `runs` appends to `backlog_changes` whenever a run starts or stops waiting, and
`fold_backlog` sums these rows into `backlog`. Readers add both tables in one statement, so their
counts are always exact.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements

BATCH = 20_000  # changes summed in one transaction

# A statement may change a row only once: rows that reach 0 are deleted, the others upserted.
_FOLD = """
    WITH taken AS (
        DELETE FROM backlog_changes
        WHERE id IN (SELECT id FROM backlog_changes ORDER BY id LIMIT :limit)
        RETURNING tenant_id, queue, priority, bucket, change
    ), summed AS (
        SELECT tenant_id, CAST(level AS smallint) AS level, queue, priority,
            bucket >> (10 * (level - 1)) AS bucket, CAST(sum(change) AS int) AS change
        FROM taken, generate_series(1, 2) AS level
        GROUP BY 1, 2, 3, 4, 5 HAVING sum(change) <> 0
    ), changed AS (
        SELECT summed.*, coalesce(backlog.runs, 0) + change AS runs
        FROM summed LEFT JOIN backlog USING (tenant_id, level, queue, priority, bucket)
    ), emptied AS (
        DELETE FROM backlog USING changed
        WHERE backlog.tenant_id = changed.tenant_id AND backlog.level = changed.level
          AND backlog.queue = changed.queue AND backlog.priority = changed.priority
          AND backlog.bucket = changed.bucket AND changed.runs = 0
    ), filled AS (
        INSERT INTO backlog (tenant_id, level, queue, priority, bucket, runs)
        SELECT tenant_id, level, queue, priority, bucket, runs FROM changed WHERE runs <> 0
        ON CONFLICT (tenant_id, level, queue, priority, bucket) DO UPDATE SET runs = excluded.runs
    )
    SELECT count(*) AS folded FROM taken
"""
_WAITING = """
    SELECT queue, priority, CAST(sum(runs) AS bigint) AS runs FROM (
        SELECT queue, priority, runs FROM backlog WHERE tenant_id = :tenant_id AND level = 2
        UNION ALL
        SELECT queue, priority, change FROM backlog_changes WHERE tenant_id = :tenant_id
    ) counted
    GROUP BY queue, priority HAVING sum(runs) > 0 ORDER BY queue, priority DESC
"""
_ADMITTED = """
    SELECT queue, priority, count(*) AS runs FROM runs
    WHERE tenant_id = :tenant_id AND state = 'queued' GROUP BY queue, priority
"""
_NOT_DUE = """
    SELECT priority, count(*) AS runs FROM runs
    WHERE tenant_id = :tenant_id AND state = 'pending' AND NOT due GROUP BY priority
"""
_PLACE = "SELECT queue, position FROM place_of_run(:run_id, :tenant_id)"

# Of each queue `limit` index entries are read, however many runs wait.
_FIRST_IN_LINE = """
    SELECT id, queue FROM (
        SELECT admitted.* FROM (
            SELECT id, queue, priority, number, false AS waits FROM runs
            WHERE tenant_id = :tenant_id AND state = 'queued'
            ORDER BY priority DESC, number LIMIT :limit
        ) admitted
        UNION ALL
        SELECT first.* FROM unnest(CAST(:queues AS text[])) AS named(name), LATERAL (
            SELECT id, queue, priority, number, true FROM runs
            WHERE queue = named.name AND tenant_id = :tenant_id AND state = 'pending' AND due
            ORDER BY priority DESC, number LIMIT :limit
        ) first
    ) ranked
    ORDER BY priority DESC, waits, number LIMIT :limit
"""


class QueuePlace(NamedTuple):
    """The position of a waiting run in its queue."""

    queue: str
    position: int  # 1 goes first


def fold_backlog(session: Session, limit: int = BATCH) -> int:
    """Sum up to `limit` changes; gives how many, 0 while another process has the lock."""
    if not statements.try_advisory_lock(
        session, "backlog", when="EXISTS (SELECT FROM backlog_changes)"
    ):
        return 0
    return int(statements.rows(session, _FOLD, limit=limit)[0].folded)


def count_waiting(session: Session, tenant_id: UUID) -> dict[str, dict[int, int]]:
    """How many runs of a tenant wait for admission: by queue, then by priority, highest first."""
    return _by_queue(statements.rows(session, _WAITING, tenant_id=tenant_id))


def count_admitted(session: Session, tenant_id: UUID) -> dict[str, dict[int, int]]:
    """How many runs of a tenant are admitted and wait for a worker: by queue, then by priority."""
    return _by_queue(statements.rows(session, _ADMITTED, tenant_id=tenant_id))


def count_not_due(session: Session, tenant_id: UUID) -> dict[int, int]:
    """How many runs of a tenant are held, wait for a time or for a key, by priority."""
    return {
        row.priority: row.runs for row in statements.rows(session, _NOT_DUE, tenant_id=tenant_id)
    }


def first_in_line(
    session: Session, tenant_id: UUID, queues: Sequence[str], limit: int
) -> dict[UUID, QueuePlace]:
    """The places of a tenant's first `limit` runs over these queues, by run id, in rank order."""
    params = {"tenant_id": tenant_id, "queues": list(queues), "limit": limit}
    places: dict[UUID, QueuePlace] = {}
    positions: Counter[str] = Counter()
    for row in statements.rows(session, _FIRST_IN_LINE, **params):
        positions[row.queue] += 1
        places[row.id] = QueuePlace(row.queue, positions[row.queue])
    return places


def place_of(session: Session, tenant_id: UUID, run_id: UUID) -> QueuePlace | None:
    """The rank of a run among the runs of its tenant that wait in its queue.

    Higher priorities go first, then admitted runs, then lower numbers. None for a run that does
    not wait, or that something else than its rank holds.
    """
    row = statements.row(session, _PLACE, run_id=run_id, tenant_id=tenant_id)
    return QueuePlace(row.queue, row.position) if row else None


def _by_queue(rows: Sequence[Row]) -> dict[str, dict[int, int]]:
    counts: dict[str, dict[int, int]] = {}
    for row in rows:
        counts.setdefault(row.queue, {})[row.priority] = row.runs
    return counts
