"""The runs that wait: how many, and the exact place of one of them, however many there are.

A trigger on `runs` appends a change whenever a run begins or ceases to wait for admission, and
`fold` adds the changes up. Who reads adds both tables in one statement, and so is always exact.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements

BATCH = 20_000  # changes folded at once

# A statement may change a row once, so what becomes empty is told apart from what does not.
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
    SELECT priority, count(*) AS runs FROM runs
    WHERE tenant_id = :tenant_id AND state = 'queued' GROUP BY priority
"""
# The spans are computed apart: under row-level security Postgres looks into an index only for a
# plain value. What was admitted and is not claimed goes before what is not admitted.
_PLACE = """
    WITH mine AS MATERIALIZED (
        SELECT id, tenant_id, queue, priority, number, state = 'pending' AS waits,
            number >> 20 AS big, (number >> 20) << 10 AS first_small,
            number >> 10 AS small, (number >> 10) << 10 AS first_number
        FROM runs
        WHERE id = :run_id AND tenant_id = :tenant_id
          AND (state = 'pending' AND due OR state = 'queued')
    )
    SELECT mine.queue, CAST(1 + sum(ahead.runs) AS bigint) AS position
    FROM mine, LATERAL (
        SELECT runs FROM backlog WHERE tenant_id = mine.tenant_id AND level = 2
          AND queue = mine.queue AND priority > mine.priority
        UNION ALL
        SELECT runs FROM backlog WHERE tenant_id = mine.tenant_id AND level = 2
          AND queue = mine.queue AND priority = mine.priority AND bucket < mine.big AND mine.waits
        UNION ALL
        SELECT runs FROM backlog WHERE tenant_id = mine.tenant_id AND level = 1
          AND queue = mine.queue AND priority = mine.priority
          AND bucket >= mine.first_small AND bucket < mine.small AND mine.waits
        UNION ALL
        SELECT change FROM backlog_changes WHERE tenant_id = mine.tenant_id
          AND queue = mine.queue AND (priority > mine.priority
            OR priority = mine.priority AND bucket < mine.small AND mine.waits)
        UNION ALL
        SELECT count(*) FROM runs other WHERE state = 'pending' AND due
          AND queue = mine.queue AND tenant_id = mine.tenant_id AND priority = mine.priority
          AND number >= mine.first_number AND number < mine.number AND mine.waits
        UNION ALL
        SELECT count(*) FROM runs other WHERE tenant_id = mine.tenant_id AND state = 'queued'
          AND queue = mine.queue AND (priority > mine.priority
            OR priority = mine.priority AND (mine.waits OR number < mine.number))
    ) ahead
    GROUP BY mine.queue
"""

# What goes first, queue by queue: so many index entries of each are read, however many wait.
_FIRST = """
    SELECT id, queue FROM (
        SELECT admitted.* FROM (
            SELECT id, queue, priority, number, false AS waits FROM runs
            WHERE tenant_id = :tenant_id AND state = 'queued'
            ORDER BY priority DESC, number LIMIT :limit
        ) admitted
        UNION ALL
        SELECT first.* FROM unnest(CAST(:queues AS text[])) AS wanted(name), LATERAL (
            SELECT id, queue, priority, number, true FROM runs
            WHERE queue = wanted.name AND tenant_id = :tenant_id AND state = 'pending' AND due
            ORDER BY priority DESC, number LIMIT :limit
        ) first
    ) ranked
    ORDER BY priority DESC, waits, number LIMIT :limit
"""


class QueuePlace(NamedTuple):
    """Where a run waits."""

    queue: str
    position: int  # 1 goes first


def fold_backlog(session: Session, limit: int = BATCH) -> int:
    """Add up what has changed; 0 when nothing has, or when another process is at it."""
    if not statements.try_advisory_lock(
        session, "backlog", when="EXISTS (SELECT FROM backlog_changes)"
    ):
        return 0
    folded = statements.row(session, _FOLD, limit=limit)
    return int(folded.folded) if folded else 0


def count_waiting(session: Session, tenant_id: UUID) -> dict[str, dict[int, int]]:
    """How many runs of a tenant wait for admission: by queue, then by priority, highest first."""
    found: dict[str, dict[int, int]] = {}
    for row in statements.rows(session, _WAITING, tenant_id=tenant_id):
        found.setdefault(row.queue, {})[row.priority] = row.runs
    return found


def admitted(session: Session, tenant_id: UUID) -> dict[int, int]:
    """How many runs of a tenant are admitted and wait for a worker, by priority."""
    return {
        row.priority: row.runs for row in statements.rows(session, _ADMITTED, tenant_id=tenant_id)
    }


def first_in_line(
    session: Session, tenant_id: UUID, queues: Sequence[str], limit: int
) -> dict[UUID, QueuePlace]:
    """The places of the runs of a tenant that go first in these queues, by id, in their order."""
    given = {"tenant_id": tenant_id, "queues": list(queues), "limit": limit}
    found: dict[UUID, QueuePlace] = {}
    ahead = dict.fromkeys(queues, 0)
    for row in statements.rows(session, _FIRST, **given):
        ahead[row.queue] = ahead.get(row.queue, 0) + 1
        found[row.id] = QueuePlace(row.queue, ahead[row.queue])
    return found


def place_of(session: Session, tenant_id: UUID, run_id: UUID) -> QueuePlace | None:
    """The rank of a run among the runs of its tenant that wait in its queue.

    Higher priorities go first, then what was admitted already, then lower numbers. A run that
    does not wait, or not only for its turn, has no place.
    """
    found = statements.row(session, _PLACE, run_id=run_id, tenant_id=tenant_id)
    return QueuePlace(found.queue, found.position) if found else None
