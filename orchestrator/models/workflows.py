"""The tables of what is there before any run: tenants, keys, workflows and their versions."""

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
