"""The history of a run: append-only, numbered without gaps.

Events are collected during a transaction and written at its end, in one statement for each run.
Whoever notes one holds the run's row lock, so numbers and commits have the same order.
"""

import json
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import outbox, prepared
from orchestrator.models import Event

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
    for run_id, noted in session.info.pop("events", {}).items():
        written = {"run_id": run_id, "count": len(noted), "noted": json.dumps(noted, default=str)}
        prepared.later(session, _WRITE, written)
        outbox.follow(session, run_id, {each["type"] for each in noted})


def history(session: Session, run_id: UUID, *, after: int = 0, limit: int = 100) -> list[Event]:
    """The events of a run after a number, oldest first."""
    asked = select(Event).where(Event.run_id == run_id, Event.seq > after)
    return list(session.scalars(asked.order_by(Event.seq).limit(limit)))
