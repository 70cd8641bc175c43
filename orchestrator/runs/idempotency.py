"""Idempotency keys: a request that is sent again with the same key creates no further runs."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orchestrator import json_values
from orchestrator.db import statements
from orchestrator.errors import IdempotencyMismatch, Mistake
from orchestrator.models import IdempotencyKey

_REMEMBER = """
    UPDATE idempotency_keys SET run_id = :run_id, run_ids = CAST(:run_ids AS uuid[])
    WHERE tenant_id = :tenant_id AND key = :key
"""


def reserve(
    session: Session, tenant_id: UUID, key: str | None, request: Any, good_for: timedelta | None
) -> list[UUID] | None:
    """Store a key, if there is one, and give None; or the ids of the runs that it created before.

    `request` is what equal requests have in common. With `good_for` an older key may be used again.
    Raises IdempotencyMismatch for a key of another request.
    """
    if key is None:
        return None
    fingerprint = json_values.fingerprint(request)
    statement = insert(IdempotencyKey).values(tenant_id=tenant_id, key=key, fingerprint=fingerprint)
    if good_for is None:
        statement = statement.on_conflict_do_nothing()
    else:
        values = {"fingerprint": fingerprint, "run_id": None, "run_ids": None}
        statement = statement.on_conflict_do_update(
            index_elements=["tenant_id", "key"],
            set_={**values, "created_at": func.now()},
            where=IdempotencyKey.created_at < func.now() - good_for,
        )
    if session.execute(statement.returning(IdempotencyKey.key)).first():
        return None
    first = session.get_one(IdempotencyKey, (tenant_id, key), populate_existing=True)
    if first.fingerprint != fingerprint or first.run_id is None:
        mistake = Mistake("/headers/Idempotency-Key", "use a new key for a new request")
        raise IdempotencyMismatch(f"key {key!r} came before with another request", mistake)
    return first.run_ids or [first.run_id]


def remember(session: Session, tenant_id: UUID, key: str | None, run_ids: Sequence[UUID]) -> None:
    """Store the runs that the request of a key, if it has one, created."""
    if key is None:
        return
    several = list(run_ids) if len(run_ids) > 1 else None
    values = {"run_id": run_ids[0], "run_ids": several}
    statements.execute_at_commit(session, _REMEMBER, tenant_id=tenant_id, key=key, **values)
