"""The history of a run: append-only, numbered without gaps.

Events are collected during a transaction and written at its end, in one statement.
Whoever notes one holds the run's row lock, so numbers and commits have the same order.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text, tuple_
from sqlalchemy.orm import Session

from orchestrator import outbox, prepared
from orchestrator.models import Event, Run

_WRITE = """
    WITH run AS (
        UPDATE runs SET event_seq = event_seq + :count WHERE id = :run_id
        RETURNING id, tenant_id, event_seq - :count AS last
    )
    INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)
    SELECT run.tenant_id, run.id, run.last + noted.at, noted.type, noted.step, noted.attempt,
           coalesce(noted.data, '{}')
    FROM run, jsonb_to_recordset(CAST(:noted AS jsonb))
        AS noted(at int, type text, step text, attempt int, data jsonb)
    ORDER BY noted.at
"""
_WRITE_MANY = """
    WITH noted AS (
        SELECT * FROM jsonb_to_recordset(CAST(:noted AS jsonb))
            AS noted(run_id uuid, at int, type text, step text, attempt int, data jsonb)
    ), run AS (
        UPDATE runs SET event_seq = event_seq + counted.events
        FROM unnest(CAST(:run_ids AS uuid[]), CAST(:counts AS int[])) AS counted(run_id, events)
        WHERE id = counted.run_id RETURNING id, tenant_id, event_seq - counted.events AS last
    )
    INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)
    SELECT run.tenant_id, run.id, run.last + noted.at, noted.type, noted.step, noted.attempt,
           coalesce(noted.data, '{}')
    FROM run JOIN noted ON noted.run_id = run.id ORDER BY run.id, noted.at
"""
_CREATED = """
    INSERT INTO events (tenant_id, run_id, seq, type, data)
    SELECT tenant_id, runs.id, event_seq, 'run.created', '{}'
    FROM unnest(CAST(:run_ids AS uuid[])) AS made(id) JOIN runs ON runs.id = made.id
    ORDER BY runs.id
"""

# Of several runs at once, each by its own index entry, however many there are.
_SINCE = """
    SELECT event.* FROM unnest(CAST(:run_ids AS uuid[]), CAST(:seqs AS int[])) AS wanted(id, seq),
    LATERAL (SELECT * FROM events WHERE events.run_id = wanted.id AND events.seq > wanted.seq
             ORDER BY events.seq LIMIT :limit) event
"""
# The oldest transaction that may still write something.
_HORIZON = "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"

Position = tuple[int, int]  # transaction, id: where a reader of a tenant's events stands
BEGINNING: Position = (0, 0)


def note(
    session: Session,
    run_id: UUID,
    type: str,
    *,
    step: str | None = None,
    attempt: int | None = None,
    **data: Any,
) -> None:
    """Remember that something happened; it is written when the transaction ends."""
    noted = session.info.setdefault("events", {}).setdefault(run_id, [])
    noted.append(
        {"at": len(noted) + 1, "type": type, "step": step, "attempt": attempt, "data": data}
    )


def write(session: Session) -> None:
    """Write what the transaction has noted when it ends; `db` calls this before it commits."""
    noted: dict[UUID, list[dict[str, Any]]] = session.info.pop("events", {})
    if len(noted) == 1:
        _write_one(session, *next(iter(noted.items())))
    elif noted:
        _write_many(session, noted)
    alike: dict[frozenset[str], list[UUID]] = {}
    for run_id, some in noted.items():
        alike.setdefault(frozenset(each["type"] for each in some), []).append(run_id)
    for types, run_ids in alike.items():
        outbox.follow(session, run_ids, types)


def write_created(session: Session, run_ids: Sequence[UUID]) -> None:
    """Write the first event of new runs, which count it already."""
    prepared.later(session, _CREATED, {"run_ids": list(run_ids)})
    outbox.follow(session, run_ids, {"run.created"})


def history(session: Session, run_id: UUID, *, after: int = 0, limit: int = 100) -> list[Event]:
    """The events of a run after a number, oldest first."""
    asked = select(Event).where(Event.run_id == run_id, Event.seq > after)
    return list(session.scalars(asked.order_by(Event.seq).limit(limit)))


def changed_at(session: Session, runs: Iterable[Run]) -> Mapping[UUID, datetime]:
    """When something last happened to each of the runs, by its id: now, if this transaction did."""
    last = {run.id: run.event_seq for run in runs}
    asked = select(Event.run_id, Event.occurred_at)
    asked = asked.where(tuple_(Event.run_id, Event.seq).in_(last.items()))
    found = {row.run_id: row.occurred_at for row in session.execute(asked)}
    noted = last.keys() & session.info.get("events", {}).keys()
    return found | dict.fromkeys(noted, datetime.now(UTC))


def of_tenant(
    session: Session,
    tenant_id: UUID,
    *,
    after: Position = BEGINNING,
    limit: int = 100,
) -> list[Event]:
    """The events of all runs of a tenant after a position, in the order of their commits.

    An event is not shown before every transaction that began to write earlier has ended: then
    nothing can come in between any more, and a reader that goes on from a position misses nothing.
    """
    asked = select(Event).where(
        Event.tenant_id == tenant_id,
        tuple_(Event.tx, Event.id) > tuple_(*after),
        Event.tx < text(_HORIZON),
    )
    return list(session.scalars(asked.order_by(Event.tx, Event.id).limit(limit)))


def horizon(session: Session) -> Position:
    """The position after everything that `of_tenant` shows now."""
    return session.scalars(text(f"SELECT {_HORIZON}")).one(), 0


def since(session: Session, positions: Mapping[UUID, int], limit: int = 500) -> Sequence[Row[Any]]:
    """The events of several runs, each after a number; at most `limit` of one run."""
    given = {
        "run_ids": list(positions),
        "seqs": list(positions.values()),
        "limit": limit,
    }
    return prepared.execute(session, _SINCE, given)


def _write_one(session: Session, run_id: UUID, noted: list[dict[str, Any]]) -> None:
    written = {"run_id": run_id, "count": len(noted), "noted": json.dumps(noted, default=str)}
    prepared.later(session, _WRITE, written)


def _write_many(session: Session, noted: Mapping[UUID, list[dict[str, Any]]]) -> None:
    lines = [{"run_id": run_id, **each} for run_id, some in noted.items() for each in some]
    given = {
        "noted": json.dumps(lines, default=str),
        "run_ids": list(noted),
        "counts": [len(some) for some in noted.values()],
    }
    prepared.later(session, _WRITE_MANY, given)
