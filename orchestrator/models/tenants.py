"""Tenants, their projects, and the keys of callers."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ForeignKey,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from orchestrator.models.base import Base, empty, made_at, numbered


class Role(enum.StrEnum):
    """What a key may do: each role may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class KeyKind(enum.StrEnum):
    """What a credential is."""

    KEY = "key"  # a secret that is sent with every request
    OAUTH_CLIENT = "oauth_client"  # an id and a secret that are exchanged for short-lived tokens


class Tenant(Base):
    """Whose data it is."""

    __tablename__ = "tenants"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    number: Mapped[int] = numbered()
    name: Mapped[str] = mapped_column(unique=True)
    settings: Mapped[dict[str, Any]] = empty("{}")
    created_at: Mapped[datetime] = made_at()


class Project(Base):
    """A part of a tenant's workflows."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    number: Mapped[int] = numbered()
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    created_at: Mapped[datetime] = made_at()


class Key(Base):
    """A secret that speaks for a tenant; only its SHA-256 is kept.

    Several may be live at once: a rotation makes the new one before it revokes the old one.
    """

    __tablename__ = "keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]  # its first characters, to tell keys apart
    hash: Mapped[str] = mapped_column(unique=True)
    role: Mapped[Role]
    kind: Mapped[KeyKind] = mapped_column(default=KeyKind.KEY, server_default=KeyKind.KEY.value)
    client_id: Mapped[str | None] = mapped_column(unique=True)  # of an OAuth client
    user: Mapped[str | None]  # whose rights it carries; the name that Basic must give
    scopes: Mapped[list[str] | None]  # None: all that the role may do
    created_at: Mapped[datetime] = made_at()
    starts_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to the minute
    revoked_at: Mapped[datetime | None]
    replaced_by: Mapped[UUID | None]  # the key that a rotation made
