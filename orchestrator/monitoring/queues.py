"""The queues of a tenant's workflows: their contents, their workers, and how fast they drain."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.errors import NotFound
from orchestrator.monitoring import backlog
from orchestrator.monitoring.workers import active_listeners, start_error
from orchestrator.spec.model import DEFAULT_QUEUE

MAX_COUNTED = 10_000  # queued steps of one queue
_MAX_QUEUES = 1000

_NAMES = """
    SELECT name FROM (
        SELECT name FROM queue_uses WHERE tenant_id = :tenant_id UNION SELECT :default
    ) used
    WHERE name > :after ORDER BY name LIMIT :limit
"""
_IS_USED = """
    SELECT name FROM queue_uses WHERE tenant_id = :tenant_id AND name = :name
"""
_QUEUES = f"""
    SELECT named.name, in_window, runnable, oldest_waiting_seconds, workers,
        {start_error("named.name")} AS start_error
    FROM unnest(CAST(:names AS text[])) AS named(name),
    LATERAL (
        SELECT count(published_at) AS in_window, count(*) - count(published_at) AS runnable
        FROM (
            SELECT published_at FROM steps
            WHERE queue = named.name AND state = 'queued' AND tenant_id = :tenant_id
            LIMIT {MAX_COUNTED}
        ) queued
    ) steps,
    LATERAL (
        SELECT CAST(extract(epoch FROM now() - min(since)) AS float) AS oldest_waiting_seconds
        FROM generate_series(0, 9) AS rank, LATERAL (
            SELECT greatest(created_at, run_at) AS since FROM runs
            WHERE queue = named.name AND tenant_id = :tenant_id AND state = 'pending' AND due
              AND priority = rank
            ORDER BY priority DESC, number LIMIT 1
        ) first
    ) oldest,
    LATERAL (
        SELECT count(*) AS workers FROM {active_listeners("named.name")}
    ) listeners
"""
_RUNNING = """
    SELECT queue, count(*) AS running FROM attempts, LATERAL (
        SELECT queue FROM steps
        WHERE id = attempts.step_id AND tenant_id = :tenant_id AND state = 'running' LIMIT 1
    ) step
    WHERE outcome IS NULL GROUP BY queue
"""
_OUTLOOK = """
    SELECT name, pace, free, capacity FROM queue_outlook(:tenant_id, CAST(:names AS text[]))
"""


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """The contents of a queue that belong to one tenant."""

    name: str
    by_priority: Mapping[int, int]  # runs that wait for admission
    in_window: int  # steps whose messages are in the broker
    runnable: int  # steps that may be claimed and have no message yet
    running: int  # steps
    oldest_waiting_seconds: float | None
    workers: int  # active ones that listen to it
    start_error: str | None  # why a worker of it did not start

    @property
    def waiting(self) -> int:
        """How many runs wait for admission."""
        return sum(self.by_priority.values())

    @property
    def starves(self) -> bool:
        """Whether work waits and no active worker listens."""
        return not self.workers and bool(self.waiting or self.in_window or self.runnable)


def page_of_queues(
    session: Session, tenant_id: UUID, *, after: str = "", limit: int = _MAX_QUEUES
) -> list[QueueState]:
    """The queues of a tenant's workflows and the default one, by name, those after a name."""
    return _states(session, tenant_id, queue_names(session, tenant_id, after=after, limit=limit))


def get_queue(session: Session, tenant_id: UUID, name: str) -> QueueState:
    """One queue by name. Raises NotFound for a queue that no workflow of the tenant uses."""
    if name != DEFAULT_QUEUE and not statements.rows(
        session, _IS_USED, tenant_id=tenant_id, name=name
    ):
        raise NotFound(f"no workflow uses a queue {name!r}")
    return _states(session, tenant_id, [name])[0]


def queue_names(
    session: Session, tenant_id: UUID, *, after: str = "", limit: int = _MAX_QUEUES
) -> list[str]:
    """The names of the same queues."""
    params = {"tenant_id": tenant_id, "after": after, "limit": limit, "default": DEFAULT_QUEUE}
    return [row.name for row in statements.rows(session, _NAMES, **params)]


def queue_outlook(session: Session, tenant_id: UUID, names: list[str]) -> dict[str, Row]:
    """By queue: recent runs per second (`pace`), and the `free` and total `capacity` of workers."""
    if not names:
        return {}
    rows = statements.rows(session, _OUTLOOK, names=names, tenant_id=tenant_id)
    return {row.name: row for row in rows}


def _states(session: Session, tenant_id: UUID, names: list[str]) -> list[QueueState]:
    waiting = backlog.count_waiting(session, tenant_id)
    running = {
        row.queue: row.running for row in statements.rows(session, _RUNNING, tenant_id=tenant_id)
    }
    return [
        QueueState(
            **row._mapping,
            by_priority=waiting.get(row.name, {}),
            running=running.get(row.name, 0),
        )
        for row in statements.rows(session, _QUEUES, names=names, tenant_id=tenant_id)
    ]
