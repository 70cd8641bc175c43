"""The history of a run: append-only, numbered without gaps.

Events are collected during a transaction and written at its end, in one statement.
Whoever notes one holds the run's row lock, so numbers and commits have the same order.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import outbox, statements

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


def record_event(
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


def write_events(session: Session) -> None:
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
        outbox.enqueue(session, run_ids, types)


def write_created(session: Session, run_ids: Sequence[UUID]) -> None:
    """Write the first event of new runs, which count it already."""
    statements.execute_at_commit(session, _CREATED, {"run_ids": list(run_ids)})
    outbox.enqueue(session, run_ids, {"run.created"})


def _write_one(session: Session, run_id: UUID, noted: list[dict[str, Any]]) -> None:
    written = {"run_id": run_id, "count": len(noted), "noted": json.dumps(noted, default=str)}
    statements.execute_at_commit(session, _WRITE, written)


def _write_many(session: Session, noted: Mapping[UUID, list[dict[str, Any]]]) -> None:
    lines = [{"run_id": run_id, **each} for run_id, some in noted.items() for each in some]
    given = {
        "noted": json.dumps(lines, default=str),
        "run_ids": list(noted),
        "counts": [len(some) for some in noted.values()],
    }
    statements.execute_at_commit(session, _WRITE_MANY, given)
