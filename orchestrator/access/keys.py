"""Keys and OAuth clients: create, list, rotate, revoke. Only a hash of a secret is stored."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from orchestrator import audit
from orchestrator.access.authentication import Principal, covers, hash_secret
from orchestrator.db import lookups
from orchestrator.errors import Conflict, Forbidden, Invalid, Mistake
from orchestrator.models import Key, KeyKind, Role

BOOTSTRAP = "admin"  # the name of the key from the setting ADMIN_KEY


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """The fields of a key to create."""

    name: str
    role: Role
    kind: KeyKind = KeyKind.KEY
    user: str | None = None
    scopes: Sequence[str] | None = None
    starts_at: datetime | None = None
    expires_at: datetime | None = None


def new_secret(kind: KeyKind = KeyKind.KEY) -> str:
    """A new secret of 256 random bits."""
    return f"{'ok' if kind == KeyKind.KEY else 'os'}_{secrets.token_urlsafe(32)}"


def key_row(tenant_id: UUID, secret: str, new: NewKey) -> Key:
    """The row of a new key, not yet added, with the hash and the beginning of its secret."""
    client = new.kind == KeyKind.OAUTH_CLIENT
    return Key(
        tenant_id=tenant_id,
        prefix=secret[: min(10, len(secret) // 4)],  # less of a short one
        hash=hash_secret(secret),
        client_id=f"oc_{secrets.token_urlsafe(16)}" if client else None,
        **vars(new),
    )


def create_key(session: Session, maker: Principal, new: NewKey) -> tuple[Key, str]:
    """Create a key or an OAuth client; the second value is its secret, which is not stored.

    Raises Forbidden for more rights than the maker has, Invalid for impossible times.
    """
    if new.name == BOOTSTRAP:
        detail = "this name is kept for the key that the setting ADMIN_KEY makes"
        raise Invalid("a key needs another name", Mistake("/name", detail))
    _must_cover(maker, new.role, new.scopes)
    _check_times(session, new.starts_at, new.expires_at)
    secret = new_secret(new.kind)
    key = key_row(maker.tenant_id, secret, new)
    session.add(key)
    session.flush()
    record_created(session, key)
    return key, secret


def record_created(session: Session, key: Key) -> None:
    """Record in the audit log that a key was created, without its secret."""
    after = {field.name: getattr(key, field.name) for field in fields(NewKey)}
    audit.record(session, key.tenant_id, "key.create", key.id, after=after)


def get_key(session: Session, tenant_id: UUID, key_id: UUID) -> Key:
    """A key by id. Raises NotFound."""
    return lookups.find(session, Key, tenant_id, key_id)


def page_of_keys(
    session: Session,
    tenant_id: UUID,
    *,
    kind: KeyKind | None = None,
    with_revoked: bool = True,
    after: UUID | None = None,
    limit: int = 50,
) -> list[Key]:
    """Keys with an id after `after`, oldest first, of one kind or all."""
    statement = select(Key).where(Key.tenant_id == tenant_id)
    if kind is not None:
        statement = statement.where(Key.kind == kind)
    if not with_revoked:
        statement = statement.where(Key.revoked_at.is_(None))
    return lookups.page_after(session, statement, Key.id, after, limit)


def revoke_key(session: Session, caller: Principal, key_id: UUID) -> Key:
    """Revoke a key at once and for good; idempotent.

    Raises NotFound, Forbidden for a key with more rights than the caller, and Conflict for the
    caller's own key: the last one would lock the tenant out.
    """
    if key_id == caller.key_id:
        raise Conflict("this is the key you ask with; revoke it with another one")
    key = lookups.find(session, Key, caller.tenant_id, key_id, lock=True)
    _must_cover(caller, key.role, key.scopes)
    before = key.revoked_at
    statement = update(Key).where(Key.tenant_id == caller.tenant_id, Key.id == key_id)
    session.execute(statement.values(revoked_at=func.coalesce(Key.revoked_at, func.now())))
    key = get_key(session, caller.tenant_id, key_id)
    change = {"before": {"revoked_at": before}, "after": {"revoked_at": key.revoked_at}}
    audit.record(session, caller.tenant_id, "key.revoke", key_id, **change)
    return key


def rotate_key(
    session: Session,
    caller: Principal,
    key_id: UUID,
    *,
    grace: timedelta,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """Create a key that replaces this one, which stays valid for the grace period.

    It has the same rights, and the same end unless `expires_at` is given. Raises NotFound,
    Forbidden for a key with more rights than the caller, and Conflict for one that has ended, was
    rotated before, or is from the setting.
    """
    old = lookups.find(session, Key, caller.tenant_id, key_id, lock=True)
    _must_be_rotatable(session, old)
    _must_cover(caller, old.role, old.scopes)
    expires_at = expires_at or old.expires_at
    _check_times(session, old.starts_at, expires_at)
    same = {name: getattr(old, name) for name in ("role", "kind", "user", "scopes", "starts_at")}
    secret = new_secret(old.kind)
    new = key_row(caller.tenant_id, secret, NewKey(name=old.name, expires_at=expires_at, **same))
    session.add(new)
    session.flush()
    end = func.least(Key.expires_at, func.now() + grace)  # ignores NULL
    session.execute(update(Key).where(Key.id == old.id).values(replaced_by=new.id, expires_at=end))
    after = {"replaced_by": new.id, "grace": grace, "expires_at": expires_at}
    audit.record(session, caller.tenant_id, "key.rotate", old.id, after=after)
    record_created(session, new)
    return new, secret


def _must_be_rotatable(session: Session, key: Key) -> None:
    if key.name == BOOTSTRAP:
        raise Conflict(
            f"the key {key.name!r} is the setting ADMIN_KEY; change it there and migrate"
        )
    if key.replaced_by is not None:
        raise Conflict(f"key {key.id} was rotated before; rotate {key.replaced_by}")
    is_expired = key.expires_at is not None and key.expires_at <= lookups.database_now(session)
    if key.revoked_at is not None or is_expired:
        raise Conflict(f"key {key.id} is over; make a new one")


def _must_cover(caller: Principal, role: Role, scopes: Sequence[str] | None) -> None:
    """Raises Forbidden for a role or scopes that the caller does not have."""
    caller.must_be(role)
    if caller.scopes is None:
        return
    if scopes is None:
        raise Forbidden("your key has scopes, and so must that one, each among them")
    if beyond := [scope for scope in scopes if not covers(caller.scopes, scope)]:
        raise Forbidden(f"your key does not have the scope {beyond[0]}, which that one has")


def _check_times(session: Session, starts_at: datetime | None, expires_at: datetime | None) -> None:
    if expires_at is None:
        return
    now = lookups.database_now(session)
    if expires_at <= max(now, starts_at or now):
        limit = "in the future" if expires_at <= now else "after `starts_at`"
        mistake = Mistake("/expires_at", f"it must lie {limit}")
        raise Invalid("the key would never be valid", mistake)
