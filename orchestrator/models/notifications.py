"""The tables of notifications: webhooks, deliveries and their attempts."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from orchestrator.models.base import UPDATED_OFTEN, Base, TenantResource, made_at
from orchestrator.models.indexes import partial_index


class DeliveryKind(enum.StrEnum):
    """The channel of a notification."""

    WEBHOOK = "webhook"
    MAIL = "mail"


class DeliveryState(enum.StrEnum):
    """The state of a delivery."""

    WAITING = "waiting"  # for `next_at`
    DELIVERED = "delivered"
    FAILED = "failed"  # no further attempts, except by a replay


class Webhook(TenantResource, Base):
    """An address of a tenant to which events of its runs are sent."""

    __tablename__ = "webhooks"
    __table_args__ = (
        Index(None, "tenant_id", "id"),
        partial_index("ix_webhooks_active", "tenant_id", where="active"),
    )

    kind: Mapped[DeliveryKind] = mapped_column(server_default=DeliveryKind.WEBHOOK.value)
    target: Mapped[str]  # a URL, or a mail address
    events: Mapped[list[str]]  # types, like run.failed
    workflow: Mapped[str | None]  # None: all
    description: Mapped[str | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    secret_number: Mapped[int] = mapped_column(server_default="1")  # incremented by a rotation
    rotated_at: Mapped[datetime | None]  # the previous secret is valid for a day more
    created_by: Mapped[str | None]
    updated_at: Mapped[datetime] = made_at()


class Delivery(Base):
    """One event for one receiver; written in the transaction of the event."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index(None, "tenant_id", "id"),
        Index(None, "webhook_id", "id"),
        Index(None, "run_id"),
        Index(None, "tenant_id", "state", "id"),
        partial_index("ix_deliveries_waiting", "next_at", where="state = 'waiting'"),
        partial_index("ix_deliveries_lanes", "lane", "next_at", where="state = 'waiting'"),
        UPDATED_OFTEN,
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
    lane: Mapped[str]  # deliveries of one lane share a limit of concurrent attempts
    event: Mapped[str]  # its type
    payload: Mapped[dict[str, Any]]  # the same at every attempt
    state: Mapped[DeliveryState] = mapped_column(server_default=DeliveryState.WAITING.value)
    attempts: Mapped[int] = mapped_column(server_default="0")  # number of the last one: the fence
    next_at: Mapped[datetime | None] = mapped_column(server_default=text("now()"))  # or its lease
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = made_at()


class DeliveryAttempt(Base):
    """One attempt of a delivery."""

    __tablename__ = "delivery_attempts"

    delivery_id: Mapped[UUID] = mapped_column(
        ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID]
    status: Mapped[int | None]  # of the HTTP response, if any
    error: Mapped[str | None]
    seconds: Mapped[float]
    attempted_at: Mapped[datetime] = made_at()
