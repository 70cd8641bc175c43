"""Tenants, their projects, and the keys of callers."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Identity, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from orchestrator.models.base import Base, Resource, TenantResource, empty, made_at


class Role(enum.StrEnum):
    """The role of a key; each includes the rights of the ones before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class KeyKind(enum.StrEnum):
    """The kind of a credential."""

    KEY = "key"  # its secret is sent with every request
    OAUTH_CLIENT = "oauth_client"  # id and secret are exchanged for short-lived tokens


class Tenant(Resource, Base):
    """An owner of data, isolated from other tenants."""

    __tablename__ = "tenants"

    number: Mapped[int] = mapped_column(BigInteger, Identity(always=False))
    name: Mapped[str] = mapped_column(unique=True)
    settings: Mapped[dict[str, Any]] = empty("{}")


class Project(TenantResource, Base):
    """A group of a tenant's workflows."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    name: Mapped[str]


class Key(Base):
    """A secret that authenticates as a tenant; only its SHA-256 is stored.

    Several may be valid at once: a rotation creates the new one before the old one ends.
    """

    __tablename__ = "keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]  # its first characters, to distinguish keys
    hash: Mapped[str] = mapped_column(unique=True)
    role: Mapped[Role]
    kind: Mapped[KeyKind] = mapped_column(default=KeyKind.KEY, server_default=KeyKind.KEY.value)
    client_id: Mapped[str | None] = mapped_column(unique=True)  # of an OAuth client
    user: Mapped[str | None]  # whose rights it has; the user name of Basic authentication
    scopes: Mapped[list[str] | None]  # None: all of the role's
    created_at: Mapped[datetime] = made_at()
    starts_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to the minute
    revoked_at: Mapped[datetime | None]
    replaced_by: Mapped[UUID | None]  # the new key of a rotation
