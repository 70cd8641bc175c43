"""The workers that are there: what each says about itself, and who has gone silent."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import store
from orchestrator.errors import NotFound
from orchestrator.store import Found

INTERVAL = timedelta(seconds=5)  # between two reports of one worker
PATIENCE = 3 * INTERVAL  # without a report: offline

# Needs `:patience`.
STATUS = """
    CASE WHEN workers.seen_at < now() - CAST(:patience AS interval) THEN 'offline'
         WHEN workers.draining THEN 'draining' ELSE 'active' END
"""
_REPORT = """
    INSERT INTO workers (name, host, pid, pool, queues, capacity, active, draining, usage,
        versions, started_at, seen_at)
    VALUES (:name, :host, :pid, :pool, :queues, :capacity, :active, :draining, :usage,
        :versions, :started_at, now())
    ON CONFLICT (name) DO UPDATE SET host = excluded.host, pid = excluded.pid,
        pool = excluded.pool, queues = excluded.queues, capacity = excluded.capacity,
        active = excluded.active, draining = excluded.draining, usage = excluded.usage,
        versions = excluded.versions, started_at = excluded.started_at, seen_at = now()
"""
# The name may belong to the next process already.
_LEAVE = "DELETE FROM workers WHERE name = :name AND started_at = :started_at AND pid = :pid"
_FORGET = "DELETE FROM workers WHERE seen_at < now() - interval '1 day' RETURNING name"
# What is offline executes nothing, whatever it said last. Of its queues a tenant sees its own.
_SEEN = f"""
    SELECT told.*, CASE WHEN status = 'offline' THEN 0 ELSE said END AS active
    FROM (
        SELECT name, host, pid, pool, capacity, active AS said, usage, versions, started_at,
            seen_at, {STATUS} AS status, ARRAY(
                SELECT queue FROM unnest(queues) AS queue
                WHERE queue = 'default' OR queue IN (
                    SELECT name FROM queue_uses WHERE tenant_id = :tenant_id)
                ORDER BY queue) AS queues
        FROM workers
    ) told
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a worker says about itself."""

    name: str
    host: str
    pid: int
    pool: str
    queues: Sequence[str]
    capacity: int
    active: int
    draining: bool
    usage: dict[str, Any]
    versions: dict[str, Any]
    started_at: datetime


def report(session: Session, said: Report) -> None:
    """Keep what a worker says, and that it said it now."""
    documents = {"usage": store.json(said.usage), "versions": store.json(said.versions)}
    given = asdict(said) | documents | {"queues": list(said.queues)}
    store.change(session, _REPORT, **given)


def leave(session: Session, name: str, pid: int, started_at: datetime) -> None:
    """A worker has ended in peace: it is not missed."""
    store.change(session, _LEAVE, name=name, pid=pid, started_at=started_at)


def forget(session: Session) -> int:
    """Remove the workers that were not seen for a day."""
    return len(store.rows(session, _FORGET))


def workers(
    session: Session, tenant_id: UUID, *, after: str = "", limit: int = 1000
) -> Sequence[Found]:
    """Workers by name, those after a name, each with its `status`."""
    given = {"tenant_id": tenant_id, "patience": PATIENCE, "after": after, "limit": limit}
    return store.rows(session, f"{_SEEN} WHERE name > :after ORDER BY name LIMIT :limit", **given)


def worker(session: Session, tenant_id: UUID, name: str) -> Found:
    """One worker by name. Raises NotFound."""
    given = {"tenant_id": tenant_id, "patience": PATIENCE, "name": name}
    found = store.row(session, f"{_SEEN} WHERE name = :name", **given)
    if found is None:
        raise NotFound(f"there is no worker {name!r}")
    return found
