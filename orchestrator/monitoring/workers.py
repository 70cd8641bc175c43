"""The registry of workers and schedulers: their reports, their status, and orders to drain."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import audit
from orchestrator.db import Row, statements
from orchestrator.errors import Conflict, NotFound

Alias = Callable[[str, str], str]  # the name to show: of the kind worker or host, and the real one

REPORT_INTERVAL = timedelta(seconds=2)  # between two reports of one worker
OFFLINE_AFTER = timedelta(seconds=15)  # without a report

# An SQL expression over `workers`.
WORKER_STATUS = f"""
    CASE WHEN workers.seen_at < now() - interval '{OFFLINE_AFTER.total_seconds()} s' THEN 'offline'
         WHEN workers.draining AND workers.active = 0 THEN 'drained'
         WHEN workers.draining OR workers.drain_by IS NOT NULL THEN 'draining'
         ELSE 'active' END
"""


def real_name(kind: str, name: str) -> str:
    """The alias of who may see every name."""
    return name


def active_listeners(queue: str) -> str:
    """The FROM of the active workers of a queue, an SQL expression."""
    return f"active_listeners({queue}) AS workers"


def start_error(queue: str) -> str:
    """Why the last start of a worker of a queue failed, a sentence with its name; in SQL."""
    return f"""(
        SELECT worker || '{_NOT_STARTED}' || coalesce(error, '{_UNFINISHED}')
        FROM worker_starts WHERE {queue} = ANY(queues) AND {_FAILED}
        ORDER BY started_at DESC LIMIT 1
    )"""


_SILENT = f"seen_at < now() - interval '{OFFLINE_AFTER.total_seconds()} s'"
_NOT_STARTED = " did not start: "
# A worker that is killed while it loads its step modules, or that they keep, says nothing.
_UNFINISHED = "its start has not come to an end"
_FAILED = "(error IS NOT NULL OR started_at < now() - interval '1 minute')"
_START = """
    INSERT INTO worker_starts (worker, queues) VALUES (:worker, :queues)
    ON CONFLICT (worker, queues) DO UPDATE SET started_at = now(),
        error = coalesce(worker_starts.error, 'its process ended while it started')
"""
_FAIL_START = """
    UPDATE worker_starts SET error = :error WHERE worker = :worker AND queues = :queues
"""
_END_START = "DELETE FROM worker_starts WHERE worker = :worker AND queues = :queues"
_FORGET_STARTS = "DELETE FROM worker_starts WHERE started_at < now() - interval '1 day'"
_FAILED_STARTS = f"""
    SELECT worker, queues, started_at, coalesce(error, '{_UNFINISHED}') AS error
    FROM worker_starts WHERE {_FAILED} ORDER BY worker, queues
"""
_HAS_HANDLER = f"""
    SELECT FROM workers JOIN steps ON steps.queue = ANY(workers.queues)
    WHERE steps.id = :step_id AND :handler = ANY(handlers) AND {WORKER_STATUS} <> 'offline' LIMIT 1
"""

_REPORT = """
    INSERT INTO workers (name, host, pid, pool, queues, capacity, active, handlers, draining, usage,
        versions, started_at, seen_at)
    VALUES (:name, :host, :pid, :pool, :queues, :capacity, :active, :handlers, :draining, :usage,
        :versions, :started_at, now())
    ON CONFLICT (name) DO UPDATE SET host = excluded.host, pid = excluded.pid,
        pool = excluded.pool, queues = excluded.queues, capacity = excluded.capacity,
        active = excluded.active, handlers = excluded.handlers, draining = excluded.draining,
        usage = excluded.usage, versions = excluded.versions,
        started_at = excluded.started_at, seen_at = now(),
        drain_by = CASE WHEN workers.started_at = excluded.started_at THEN workers.drain_by END
    RETURNING CAST(extract(epoch FROM drain_by - now()) AS float) AS drain_in
"""
_DRAIN = "UPDATE workers SET drain_by = now() + CAST(:within AS interval) WHERE name = :name"
_NAMES = f"""
    SELECT name FROM workers WHERE {WORKER_STATUS} <> 'offline' OR name = :start ORDER BY name
"""
_ATTEMPTS = """
    SELECT runs.id AS run_id, runs.workflow, steps.key, attempts.number FROM attempts
    JOIN steps ON steps.id = attempts.step_id JOIN runs ON runs.id = attempts.run_id
    WHERE attempts.outcome IS NULL AND attempts.worker = :name
    ORDER BY attempts.started_at LIMIT 100
"""
_STATUS = f"SELECT {WORKER_STATUS} AS status, drain_by FROM workers WHERE name = :name"
_STARTED = f"""
    SELECT ARRAY(
            SELECT pid FROM workers WHERE host = :host AND {WORKER_STATUS} = 'active') AS workers,
        (SELECT count(*) FROM schedulers WHERE started_at > :since) AS schedulers
"""
_REPORT_SCHEDULER = """
    INSERT INTO schedulers (id) VALUES (:id)
    ON CONFLICT (id) DO UPDATE SET seen_at = now()
"""
_REMOVE_SCHEDULER = "DELETE FROM schedulers WHERE id = :id"
_FORGET_SCHEDULERS = f"DELETE FROM schedulers WHERE {_SILENT}"
_SCHEDULERS = f"SELECT count(*) AS running FROM schedulers WHERE NOT {_SILENT}"
# The same name may belong to the next process already.
_REMOVE = "DELETE FROM workers WHERE name = :name AND started_at = :started_at AND pid = :pid"
_FORGET = "DELETE FROM workers WHERE seen_at < now() - interval '1 day' RETURNING name"
# An offline worker executes nothing, whatever it reported last. A tenant sees its own queues only.
_WORKERS = f"""
    SELECT reports.*, CASE WHEN status = 'offline' THEN 0 ELSE reported END AS active
    FROM (
        SELECT name, host, pid, pool, capacity, active AS reported, usage, versions, started_at,
            seen_at, {WORKER_STATUS} AS status, ARRAY(
                SELECT queue FROM unnest(queues) AS queue
                WHERE queue = 'default' OR queue IN (
                    SELECT name FROM queue_uses WHERE tenant_id = :tenant_id)
                ORDER BY queue) AS queues
        FROM workers
    ) reports
"""


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """What a worker reports about itself."""

    name: str
    host: str
    pid: int
    pool: str
    queues: Sequence[str]
    capacity: int
    active: int
    handlers: Sequence[str]
    draining: bool
    usage: dict[str, Any]
    versions: dict[str, Any]
    started_at: datetime


def record_report(session: Session, report: WorkerReport) -> float | None:
    """Upsert a report; gives the seconds until it must hand back steps, None unless it drains."""
    documents = {name: statements.to_json(vars(report)[name]) for name in ("usage", "versions")}
    lists = {"queues": list(report.queues), "handlers": list(report.handlers)}
    values = {**vars(report), **documents, **lists}
    row = statements.row(session, _REPORT, **values)
    return row and row.drain_in


def started_processes(session: Session, host: str, since: datetime) -> Row:
    """The pids of a host's active `workers`, and how many `schedulers` started since then."""
    return statements.rows(session, _STARTED, host=host, since=since)[0]


def report_scheduler(session: Session, scheduler_id: UUID) -> None:
    """Record that a scheduler runs; those that have not for long are forgotten."""
    statements.execute(session, _FORGET_SCHEDULERS)
    statements.execute(session, _REPORT_SCHEDULER, id=scheduler_id)


def remove_scheduler(session: Session, scheduler_id: UUID) -> None:
    """Delete a scheduler's row after a clean shutdown."""
    statements.execute(session, _REMOVE_SCHEDULER, id=scheduler_id)


def count_schedulers(session: Session) -> int:
    """How many schedulers run."""
    return int(statements.rows(session, _SCHEDULERS)[0].running)


def remove_worker(session: Session, name: str, pid: int, started_at: datetime) -> None:
    """Delete a worker's row after a clean shutdown."""
    statements.execute(session, _REMOVE, name=name, pid=pid, started_at=started_at)


def begin_start(session: Session, name: str, queues: Sequence[str]) -> None:
    """Record that a worker starts; its name is the same at each start."""
    statements.execute(session, _START, worker=_start_name(name), queues=sorted(queues))


def fail_start(session: Session, name: str, queues: Sequence[str], error: str) -> None:
    """Record why a start failed."""
    params = {"worker": _start_name(name), "queues": sorted(queues)}
    statements.execute(session, _FAIL_START, error=error, **params)


def end_start(session: Session, name: str, queues: Sequence[str]) -> None:
    """Forget the start of a worker, which has succeeded."""
    statements.execute(session, _END_START, worker=_start_name(name), queues=sorted(queues))


def failed_starts(session: Session) -> Sequence[Row]:
    """The workers whose last start failed: `worker`, `queues`, `started_at` and `error`."""
    return statements.rows(session, _FAILED_STARTS)


def has_handler(session: Session, step_id: UUID, handler: str) -> bool:
    """Whether a live worker of the step's queue has this handler."""
    params = {"step_id": step_id, "handler": handler}
    return statements.row(session, _HAS_HANDLER, **params) is not None


def is_short_of_processes(worker: Row | SimpleNamespace) -> bool:
    """Whether a worker has fewer processes than its concurrency, so that it takes fewer steps."""
    return worker.status != "offline" and bool(worker.usage.get("missing_processes"))


def find_worker(session: Session, start: str) -> str:
    """A worker's name from its beginning; an exact match wins. Raises NotFound, or Conflict."""
    names = [row.name for row in statements.rows(session, _NAMES, start=start)]
    matches = [start] if start in names else [each for each in names if each.startswith(start)]
    if len(matches) > 1:
        raise Conflict(f"{start!r} may be {', '.join(matches)}")
    if not matches:
        near = difflib.get_close_matches(start, names, n=3, cutoff=0.3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise NotFound(f"there is no worker {start!r}{hint}")
    return matches[0]


def drain_worker(session: Session, name: str, within: timedelta | None) -> None:
    """Order a worker to drain, and to hand back what still runs after `within`; None revokes it."""
    statements.execute(session, _DRAIN, name=name, within=within)
    after = {"draining": within is not None, "within": within}
    audit.record(session, audit.SYSTEM, "worker.drain", name, after=after)


def drain_progress(session: Session, name: str) -> tuple[Row | None, Sequence[Row]]:
    """A worker's `status` and `drain_by`, None if it is gone, and the attempts that it executes."""
    return (
        statements.row(session, _STATUS, name=name),
        statements.rows(session, _ATTEMPTS, name=name),
    )


def forget_workers(session: Session) -> int:
    """Delete workers without a report for a day, and starts as old; gives how many workers."""
    statements.execute(session, _FORGET_STARTS)
    return len(statements.rows(session, _FORGET))


def page_of_workers(
    session: Session, tenant_id: UUID, alias: Alias, *, after: str = "", limit: int = 1000
) -> list[SimpleNamespace]:
    """Workers by the names that `alias` gives them, those after a name, each with its `status`."""
    rows = statements.rows(session, _WORKERS, tenant_id=tenant_id)
    shown = sorted((_shown(row, alias) for row in rows), key=lambda row: row.name)
    return [row for row in shown if row.name > after][:limit]


def get_worker(session: Session, tenant_id: UUID, alias: Alias, name: str) -> SimpleNamespace:
    """One worker by the name that `alias` gives it. Raises NotFound."""
    for row in statements.rows(session, _WORKERS, tenant_id=tenant_id):
        if alias("worker", row.name) == name:
            return _shown(row, alias)
    raise NotFound(f"there is no worker {name!r}")


def start_error_as(text: str | None, alias: Alias) -> str | None:
    """What `start_error` gave, with another name of the worker."""
    name, middle, error = (text or "").partition(_NOT_STARTED)
    return f"{alias('worker', name)}{middle}{error}" if text else None


def _shown(row: Row, alias: Alias) -> SimpleNamespace:
    """A worker whose host has its alias, and without its process id if that differs."""
    host = alias("host", row.host)
    names = {"name": alias("worker", row.name), "host": host}
    return SimpleNamespace(**{**row._mapping, **names, "pid": row.pid if host == row.host else 0})


def _start_name(name: str) -> str:
    """The node's name without the process id that `orchestrator worker` puts in it."""
    return re.sub(r"-\d+(?=@)", "", name)
