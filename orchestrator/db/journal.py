"""The event journal of a run: append-only, numbered without gaps.

Events are collected during a transaction and written with its commit, in one statement. The caller
holds the run's row lock, so the numbers have the order of the commits.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import outbox, statements
from orchestrator.db.unit_of_work import unit_of
from orchestrator.json_values import dump_json

_WRITE = """
    WITH run AS (
        UPDATE runs SET event_seq = event_seq + :count WHERE id = :run_id
        RETURNING id, tenant_id, event_seq - :count AS last
    )
    INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)
    SELECT run.tenant_id, run.id, run.last + event.at, event.type, event.step, event.attempt,
           coalesce(event.data, '{}')
    FROM run, jsonb_to_recordset(CAST(:events AS jsonb))
        AS event(at int, type text, step text, attempt int, data jsonb)
    ORDER BY event.at
"""

_WRITE_MANY = """
    WITH event AS (
        SELECT * FROM jsonb_to_recordset(CAST(:events AS jsonb))
            AS event(run_id uuid, at int, type text, step text, attempt int, data jsonb)
    ), run AS (
        UPDATE runs SET event_seq = event_seq + counted.events
        FROM unnest(CAST(:run_ids AS uuid[]), CAST(:counts AS int[])) AS counted(run_id, events)
        WHERE id = counted.run_id RETURNING id, tenant_id, event_seq - counted.events AS last
    )
    INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)
    SELECT run.tenant_id, run.id, run.last + event.at, event.type, event.step, event.attempt,
           coalesce(event.data, '{}')
    FROM run JOIN event ON event.run_id = run.id ORDER BY run.id, event.at
"""


def record_event(
    session: Session,
    run_id: UUID,
    type: str,
    *,
    step: str | None = None,
    attempt: int | None = None,
    **data: Any,
) -> None:
    """Collect an event; it is written when the transaction commits."""
    events = unit_of(session).events.setdefault(run_id, [])
    events.append(
        {"at": len(events) + 1, "type": type, "step": step, "attempt": attempt, "data": data}
    )


def write_events(session: Session) -> None:
    """Write the collected events, and enqueue what follows from them in the outbox."""
    unit = unit_of(session)
    events, unit.events = unit.events, {}
    if len(events) == 1:
        _write_one(session, *next(iter(events.items())))
    elif events:
        _write_many(session, events)
    runs_by_types: dict[frozenset[str], list[UUID]] = {}
    for run_id, of_run in events.items():
        runs_by_types.setdefault(frozenset(each["type"] for each in of_run), []).append(run_id)
    for types, run_ids in runs_by_types.items():
        outbox.enqueue(session, run_ids, types)


def _write_one(session: Session, run_id: UUID, events: list[dict[str, Any]]) -> None:
    document = dump_json(events, default=str)
    statements.execute_at_commit(session, _WRITE, run_id=run_id, count=len(events), events=document)


def _write_many(session: Session, events: Mapping[UUID, list[dict[str, Any]]]) -> None:
    lines = [{"run_id": run_id, **each} for run_id, of_run in events.items() for each in of_run]
    statements.execute_at_commit(
        session,
        _WRITE_MANY,
        events=dump_json(lines, default=str),
        run_ids=list(events),
        counts=[len(of_run) for of_run in events.values()],
    )
