"""The tables of what is there before any run: tenants, keys, workflows and their versions."""

import enum
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7


class Role(enum.StrEnum):
    """What a key may do: each role may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class KeyKind(enum.StrEnum):
    """What a credential is."""

    KEY = "key"  # a secret that is sent with every request
    OAUTH_CLIENT = "oauth_client"  # an id and a secret that are exchanged for short-lived tokens


class Base(DeclarativeBase):
    """Names every constraint, stores enums by value and times with their zone."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
        list[UUID]: ARRAY(Uuid),
        enum.StrEnum: Enum(
            enum.StrEnum,
            native_enum=False,
            length=20,
            create_constraint=True,
            values_callable=lambda states: [state.value for state in states],
        ),
    }


def numbered() -> Mapped[int]:
    """A column that counts rows."""
    return mapped_column(BigInteger, Identity(always=False))


def numbered_or_id(model: Any, which: UUID | int) -> ColumnElement[bool]:
    """Whether a row has this id or number."""
    if isinstance(which, int):  # a number too large for the column is just not there
        return model.number == which if 0 < which < 2**63 else false()
    found: ColumnElement[bool] = model.id == which
    return found


def made_at() -> Mapped[datetime]:
    """A column of when the row was made."""
    return mapped_column(server_default=func.now())


def empty(kind: str) -> Mapped[Any]:
    """A column that begins as an empty object or list."""
    return mapped_column(server_default=text(f"'{kind}'"))


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


class Workflow(Base):
    """A named definition of steps; its versions say which."""

    __tablename__ = "workflows"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    number: Mapped[int] = numbered()
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    service: Mapped[str]
    description: Mapped[str]
    version: Mapped[int]  # the latest
    annotations: Mapped[dict[str, Any]] = empty("{}")  # what a client keeps with it
    created_at: Mapped[datetime] = made_at()
    updated_at: Mapped[datetime] = made_at()


class Version(Base):
    """One immutable registration of a workflow."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("workflow_id", "number"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    workflow_id: Mapped[UUID] = mapped_column(ForeignKey("workflows.id"))
    number: Mapped[int]
    spec: Mapped[dict[str, Any]]  # as it was given
    # The rows a run's steps are copied from; only SQL reads them.
    plan: Mapped[list[dict[str, Any]]] = mapped_column(deferred=True)
    fingerprint: Mapped[str]
    tag: Mapped[str | None]
    created_at: Mapped[datetime] = made_at()


class Queue(Base):
    """A name that workers listen to, known since a workflow named it."""

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = made_at()


class QueueUse(Base):
    """Which tenant's workflows name which queue: nobody is shown another tenant's names."""

    __tablename__ = "queue_uses"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
