"""Idempotency keys: the same request with the same key is done once, however often it is sent."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orchestrator.errors import IdempotencyMismatch, Mistake
from orchestrator.models import IdempotencyKey


def reserve(
    session: Session, tenant_id: UUID, key: str, fingerprint: str, good_for: timedelta | None = None
) -> list[UUID] | None:
    """Take a key, or give the ids of the runs that it made before.

    With `good_for` a key older than that is as good as new. Raises IdempotencyMismatch for a key
    that came before with another request.
    """
    taken = insert(IdempotencyKey).values(tenant_id=tenant_id, key=key, fingerprint=fingerprint)
    if good_for is None:
        taken = taken.on_conflict_do_nothing()
    else:
        anew = {"fingerprint": fingerprint, "run_id": None, "run_ids": None}
        taken = taken.on_conflict_do_update(
            index_elements=["tenant_id", "key"],
            set_={**anew, "created_at": func.now()},
            where=IdempotencyKey.created_at < func.now() - good_for,
        )
    if session.execute(taken.returning(IdempotencyKey.key)).first():
        return None
    first = session.get_one(IdempotencyKey, (tenant_id, key), populate_existing=True)
    if first.fingerprint != fingerprint or first.run_id is None:
        mistake = Mistake("/headers/Idempotency-Key", "use a new key for a new request")
        raise IdempotencyMismatch(f"key {key!r} came before with another request", mistake)
    return first.run_ids or [first.run_id]


def remember(session: Session, tenant_id: UUID, key: str, made: Sequence[UUID]) -> None:
    """Remember the runs that the request of a key made."""
    mine = (IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key == key)
    several = list(made) if len(made) > 1 else None
    session.execute(update(IdempotencyKey).where(*mine).values(run_id=made[0], run_ids=several))
