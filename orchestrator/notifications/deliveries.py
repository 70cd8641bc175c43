"""Deliveries: every message on its way to the outside, and the log of its tries.

Whoever sends one claims it first, for as long as a lease: when the sender dies, it comes due again.
So a receiver may hear the same message twice, under the same id.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.errors import NotFound
from orchestrator.json_values import clean_text
from orchestrator.models import Delivery, DeliveryAttempt, DeliveryKind, DeliveryState
from orchestrator.notifications import webhooks
from orchestrator.notifications.http import SendResult

_GONE = 410  # the status by which a receiver wants no more
_LONGEST_PAUSE = 3600.0  # seconds that a receiver may ask for

# From lane to lane by the index, so that a receiver's backlog costs nobody else a look.
_CLAIM = """
    WITH RECURSIVE lanes AS (
        (SELECT lane FROM deliveries WHERE state = 'waiting' AND lane > :after
         ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT lane FROM deliveries WHERE state = 'waiting' AND lane > lanes.lane
                ORDER BY lane LIMIT 1)
        FROM lanes WHERE lanes.lane IS NOT NULL
    ), next AS (
        SELECT due.* FROM lanes CROSS JOIN LATERAL (
            SELECT id, webhook_id FROM deliveries
            WHERE state = 'waiting' AND lane = lanes.lane AND next_at <= now()
            ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED
        ) due
        WHERE lanes.lane <> ALL(:full) AND split_part(lanes.lane, ' ', 1) <> ALL(:full)
        LIMIT 1
    )
    UPDATE deliveries
    SET attempts = attempts + 1, next_at = now() + CAST(:lease AS interval)
    FROM next LEFT JOIN webhooks ON webhooks.id = next.webhook_id
    WHERE deliveries.id = next.id
    RETURNING deliveries.id, deliveries.tenant_id, deliveries.webhook_id, deliveries.kind,
        deliveries.target, deliveries.lane, deliveries.payload, deliveries.attempts,
        webhooks.active IS NOT false AS wanted,
        coalesce(webhooks.secret_number, 1) AS secret_number, webhooks.rotated_at
"""
_LOG = """
    INSERT INTO delivery_attempts (delivery_id, number, tenant_id, status, error, seconds)
    VALUES (:id, :number, :tenant_id, :status, :error, :seconds) ON CONFLICT DO NOTHING
"""
_DELIVERED = """
    UPDATE deliveries SET state = 'delivered', delivered_at = now(), next_at = NULL
    WHERE id = :id AND state = 'waiting'
"""
_FAILED = """
    UPDATE deliveries SET state = 'failed', next_at = NULL
    WHERE id = :id AND state = 'waiting' AND attempts = :number
"""
_LATER = """
    UPDATE deliveries SET next_at = now() + CAST(:pause AS interval)
    WHERE id = :id AND state = 'waiting' AND attempts = :number
"""
_SWITCH_OFF = """
    UPDATE webhooks SET active = false, updated_at = now()
    WHERE id = :webhook_id AND target = :target AND active
"""


@dataclass(frozen=True)
class Backoff:
    """How long to wait after each try; after the last of them it is given up.

    A part of each pause is left to chance, so that what failed together does not come together
    again. In all it stays below a day, also when a receiver asks for an hour each time.
    """

    pauses: Sequence[float] = (5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600, 9 * 3600)  # seconds
    chance: float = 0.2

    def pause(self, tries: int, retry_after: float = 0) -> timedelta | None:
        """How long to wait after so many tries; None: no more."""
        if tries > len(self.pauses):
            return None
        pause = self.pauses[tries - 1] * random.uniform(1 - self.chance, 1)
        return timedelta(seconds=max(pause, min(retry_after, _LONGEST_PAUSE)))


@dataclass(frozen=True, kw_only=True)
class ClaimedDelivery:
    """The right to one try of one delivery."""

    id: UUID
    number: int  # of the try: the fence
    tenant_id: UUID
    webhook_id: UUID | None  # None: the run itself asked for it
    kind: DeliveryKind
    target: str
    lane: str
    payload: dict[str, Any]
    wanted: bool  # its webhook was not switched off meanwhile
    secret_number: int
    rotated_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries; several states mean any of them."""

    state: Sequence[DeliveryState] = ()
    run: UUID | None = None
    webhook: UUID | None = None


def claim_deliveries(
    session: Session, *, after: str, full: Collection[str], lease: timedelta
) -> ClaimedDelivery | None:
    """The next try that is due, from the first lane after one; None if there is none.

    `full` has lanes and tenants of which nothing more is wanted now.
    """
    row = statements.row(session, _CLAIM, after=after, full=list(full), lease=lease)
    if row is None:
        return None
    found = dict(row._mapping)
    return ClaimedDelivery(
        number=found.pop("attempts"), kind=DeliveryKind(found.pop("kind")), **found
    )


def record_delivery(
    session: Session, claimed: ClaimedDelivery, answer: SendResult, seconds: float, backoff: Backoff
) -> None:
    """Keep what came of a try. Taken is taken, whoever else is trying meanwhile."""
    held = select(Delivery.id).where(Delivery.id == claimed.id).with_for_update()
    if session.scalar(held) is None:  # its webhook was deleted
        return
    which = {"id": claimed.id, "number": claimed.number}
    error = None if answer.error is None else clean_text(answer.error)
    told = {"tenant_id": claimed.tenant_id, "status": answer.status, "error": error}
    statements.execute(session, _LOG, **which, **told, seconds=round(seconds, 3))
    pause = backoff.pause(claimed.number, answer.retry_after)
    gone = claimed.kind == DeliveryKind.WEBHOOK and answer.status == _GONE
    if answer.error is None:
        statements.execute(session, _DELIVERED, id=claimed.id)
    elif answer.final or gone or pause is None:
        statements.execute(session, _FAILED, **which)
    else:
        statements.execute(session, _LATER, **which, pause=pause)
    if gone:
        given = {"webhook_id": claimed.webhook_id, "target": claimed.target}
        statements.execute(session, _SWITCH_OFF, **given)


def get_delivery(session: Session, tenant_id: UUID, delivery_id: UUID) -> Delivery:
    """A delivery by id. Raises NotFound."""
    asked = select(Delivery).where(Delivery.id == delivery_id, Delivery.tenant_id == tenant_id)
    delivery = session.scalar(asked.execution_options(populate_existing=True))
    if delivery is None:
        raise NotFound(f"there is no delivery {delivery_id}")
    return delivery


def page_of_deliveries(
    session: Session, tenant_id: UUID, which: DeliveryFilter, *, before: UUID | None, limit: int
) -> list[Delivery]:
    """Deliveries, newest first."""
    asked = select(Delivery).where(Delivery.tenant_id == tenant_id)
    if which.state:
        asked = asked.where(Delivery.state.in_(which.state))
    if which.run is not None:
        asked = asked.where(Delivery.run_id == which.run)
    if which.webhook is not None:
        asked = asked.where(Delivery.webhook_id == which.webhook)
    if before is not None:
        asked = asked.where(Delivery.id < before)
    return list(session.scalars(asked.order_by(Delivery.id.desc()).limit(limit)))


def attempts_of_delivery(session: Session, delivery: Delivery) -> Sequence[DeliveryAttempt]:
    """Every try of a delivery; a number that is missing was lost with its sender."""
    asked = select(DeliveryAttempt).where(
        DeliveryAttempt.delivery_id == delivery.id,
        DeliveryAttempt.tenant_id == delivery.tenant_id,
    )
    return session.scalars(asked.order_by(DeliveryAttempt.number)).all()


def replay_delivery(session: Session, tenant_id: UUID, delivery_id: UUID) -> Delivery:
    """Send a delivery once more, now, under its id and to its webhook's present target.

    One that was given up is tried once; one with tries left goes on with them. Raises NotFound,
    and Conflict when its webhook is not active.
    """
    delivery = get_delivery(session, tenant_id, delivery_id)
    webhook = None
    if delivery.webhook_id is not None:
        webhook = webhooks.get_webhook(session, tenant_id, delivery.webhook_id)
        webhooks.must_be_active(webhook)
    delivery.state, delivery.next_at, delivery.delivered_at = (
        DeliveryState.WAITING,
        func.now(),
        None,
    )
    session.flush()
    if webhook is not None:
        webhooks.check_target(session, webhook)
    return get_delivery(session, tenant_id, delivery_id)
