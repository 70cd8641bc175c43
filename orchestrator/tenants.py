"""Tenants, their projects, and the keys that speak for them."""

import hashlib
import secrets
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orchestrator.definitions import Key, Project, Role, Tenant
from orchestrator.errors import Forbidden, Unauthenticated

DEFAULT = "default"
_RANKS = list(Role)


@dataclass(frozen=True)
class Caller:
    """Who asks, and for whom."""

    tenant_id: UUID
    name: str  # of the key
    role: Role

    def must_be(self, role: Role) -> None:
        """Raises Forbidden when the key's role does not reach this far."""
        if _RANKS.index(self.role) < _RANKS.index(role):
            raise Forbidden(f"this needs the role {role}; the key {self.name!r} is a {self.role}")


def new_secret() -> str:
    """A key nobody can guess: 256 random bits."""
    return f"ok_{secrets.token_urlsafe(32)}"


def authenticate(session: Session, secret: str) -> Caller:
    """Say whose key this is. Raises Unauthenticated for one that is unknown, over or revoked."""
    asked = select(Key).where(
        Key.hash == _hash(secret),
        Key.revoked_at.is_(None),
        or_(Key.expires_at.is_(None), Key.expires_at > func.now()),
    )
    key = session.scalar(asked)
    if key is None:
        raise Unauthenticated("this key is unknown, expired or revoked")
    return Caller(key.tenant_id, key.name, key.role)


def ensure_default(session: Session, admin_key: str) -> Tenant:
    """Make tenant and project `default`, and let `admin_key` speak for it; twice is harmless."""
    session.execute(insert(Tenant).values(name=DEFAULT).on_conflict_do_nothing())
    tenant = session.scalars(select(Tenant).where(Tenant.name == DEFAULT)).one()
    project = insert(Project).values(tenant_id=tenant.id, name=DEFAULT)
    session.execute(project.on_conflict_do_nothing())
    key = insert(Key).values(
        tenant_id=tenant.id,
        name="admin",
        prefix=admin_key[:6],
        hash=_hash(admin_key),
        role=Role.ADMIN,
    )
    session.execute(key.on_conflict_do_nothing())
    return tenant


def default_project(session: Session, tenant_id: UUID) -> UUID:
    """The project that a workflow belongs to when it names none."""
    asked = select(Project.id).where(Project.tenant_id == tenant_id).order_by(Project.number)
    return session.scalars(asked.limit(1)).one()


def _hash(secret: str) -> str:
    # A plain hash is enough: 256 random bits leave nothing to guess, so nothing to slow down.
    return hashlib.sha256(secret.encode()).hexdigest()
