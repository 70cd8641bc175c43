"""The tables of what is told to the outside: webhooks, and every message on its way."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from orchestrator.models.base import Base, made_at, numbered


class DeliveryKind(enum.StrEnum):
    """How it is told."""

    WEBHOOK = "webhook"
    MAIL = "mail"


class DeliveryState(enum.StrEnum):
    """Where a delivery is."""

    WAITING = "waiting"  # for `next_at`
    DELIVERED = "delivered"
    FAILED = "failed"  # given up; a replay sends it once more


class Webhook(Base):
    """An address of the tenant that is told about events of its runs."""

    __tablename__ = "webhooks"
    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index("ix_webhooks_active", "tenant_id", postgresql_where=text("active")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    number: Mapped[int] = numbered()
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[DeliveryKind] = mapped_column(server_default=DeliveryKind.WEBHOOK.value)
    target: Mapped[str]  # a URL, or a mail address
    events: Mapped[list[str]]  # types, like run.failed
    workflow: Mapped[str | None]  # None: of every workflow
    description: Mapped[str | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    secret_number: Mapped[int] = mapped_column(server_default="1")  # a rotation counts it up
    rotated_at: Mapped[datetime | None]  # the secret before is good for a day more
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = made_at()
    updated_at: Mapped[datetime] = made_at()


class Delivery(Base):
    """One event on its way to one receiver; written with the event."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index(None, "webhook_id", "id"),
        Index(None, "run_id"),
        Index(None, "tenant_id", "state", "id"),
        Index("ix_deliveries_waiting", "next_at", postgresql_where=text("state = 'waiting'")),
        Index("ix_deliveries_lanes", "lane", "next_at", postgresql_where=text("state = 'waiting'")),
    )

    id: Mapped[UUID] = mapped_column(
        primary_key=True, default=uuid7, server_default=text("gen_random_uuid()")
    )
    tenant_id: Mapped[UUID]
    webhook_id: Mapped[UUID | None] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    run_id: Mapped[UUID | None]
    seq: Mapped[int | None]  # of the event
    kind: Mapped[DeliveryKind]
    target: Mapped[str]
    lane: Mapped[str]  # of those with the same one only a few are on their way at once
    event: Mapped[str]  # its type
    payload: Mapped[dict[str, Any]]  # what is sent, the same at every try
    state: Mapped[DeliveryState] = mapped_column(server_default=DeliveryState.WAITING.value)
    attempts: Mapped[int] = mapped_column(server_default="0")  # the last one's number: the fence
    next_at: Mapped[datetime | None] = mapped_column(server_default=text("now()"))  # or its lease
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = made_at()


class DeliveryAttempt(Base):
    """One try of one delivery."""

    __tablename__ = "delivery_attempts"

    delivery_id: Mapped[UUID] = mapped_column(
        ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID]
    status: Mapped[int | None]  # of the answer; None: there was none
    error: Mapped[str | None]
    seconds: Mapped[float]
    attempted_at: Mapped[datetime] = made_at()
