"""The tables of the audit log, and who its entries name."""

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, func
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from orchestrator.models.base import UPDATED_OFTEN, Base, empty
from orchestrator.models.indexes import partial_index


class ActorKind(enum.StrEnum):
    """What a change was made with."""

    KEY = "key"
    TOKEN = "token"  # a short-lived one of an OAuth client
    TRIGGER = "trigger"  # the token of a schedule
    SWEEP = "sweep"  # of a scheduler
    COMMAND = "command"  # of the command line, on the database itself
    PROCESS = "process"  # any other process


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who makes a change, and by which request; the columns of the same names."""

    actor: ActorKind
    name: str | None = None
    key_id: UUID | None = None
    user: str | None = None
    contract: str | None = None
    request_id: str | None = None


class AuditEntry(Base):
    """One change. A trigger keeps it as it is, except that a sweep sets number and hash, once."""

    __tablename__ = "audit"
    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index(None, "tenant_id", "number", unique=True),
        Index(None, "tenant_id", "at"),
        Index(None, "tenant_id", "verb", "id"),
        Index(None, "tenant_id", "object_id", "id"),
        Index(None, "tenant_id", "key_id", "id"),
        partial_index("ix_audit_unlinked", "id", where="hash IS NULL"),
        UPDATED_OFTEN,  # each once: the sweep must not read what it has linked
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]  # no reference: entries outlive their tenant
    number: Mapped[int | None] = mapped_column(BigInteger)  # in the tenant's chain, from 1
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    actor: Mapped[ActorKind]
    name: Mapped[str | None]  # of the key, the schedule, the sweep or the user of the machine
    key_id: Mapped[UUID | None]
    user: Mapped[str | None]  # that came with the key
    contract: Mapped[str | None]  # the API of the request
    request_id: Mapped[str | None]
    verb: Mapped[str]  # like run.cancel
    object_type: Mapped[str]  # like run
    object_id: Mapped[str]
    before: Mapped[dict[str, Any]] = empty("{}")  # only what changed
    after: Mapped[dict[str, Any]] = empty("{}")
    hash: Mapped[str | None]  # SHA-256 of the hash before it and of this entry


class AuditHead(Base):
    """The last link of a tenant's chain: by it, entries that are missing at the end are noticed."""

    __tablename__ = "audit_heads"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str]
