"""The tables of workflows, their versions and their queues."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from orchestrator.models.base import Base, TenantResource, empty, made_at
from orchestrator.models.indexes import partial_index


class Workflow(TenantResource, Base):
    """A named workflow; its versions have the definitions."""

    __tablename__ = "workflows"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        partial_index("ix_workflows_title", "tenant_id", "title", where="title IS NOT NULL"),
    )

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    title: Mapped[str | None]  # its display name
    service: Mapped[str]
    description: Mapped[str]
    version: Mapped[int]  # the latest
    annotations: Mapped[dict[str, Any]] = empty("{}")  # of clients
    updated_at: Mapped[datetime] = made_at()


class Version(Base):
    """One immutable registration of a workflow."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("workflow_id", "number"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    workflow_id: Mapped[UUID] = mapped_column(ForeignKey("workflows.id"))
    number: Mapped[int]
    spec: Mapped[dict[str, Any]]  # as registered
    # The rows from which a run's steps are copied, by SQL only.
    plan: Mapped[list[dict[str, Any]]] = mapped_column(deferred=True)
    fingerprint: Mapped[str]
    tag: Mapped[str | None]
    created_at: Mapped[datetime] = made_at()


class Queue(Base):
    """A queue of workers, registered when a workflow first names it."""

    __tablename__ = "queues"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = made_at()


class QueueUse(Base):
    """The queues that a tenant's workflows name; those of others are not visible to it."""

    __tablename__ = "queue_uses"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
