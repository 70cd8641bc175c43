"""Deliveries: outgoing messages of webhooks and mail, and the log of their attempts.

A sender claims a delivery for a lease; when it dies, the delivery is due again after the lease. So
a receiver may get the same message twice, with the same id.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator import audit
from orchestrator.db import lookups, statements
from orchestrator.json_values import clean_text
from orchestrator.models import Delivery, DeliveryAttempt, DeliveryKind, DeliveryState
from orchestrator.notifications import webhooks
from orchestrator.notifications.http import SendResult

_GONE = 410  # HTTP status; it switches the webhook off
_MAX_RETRY_AFTER = 3600.0  # seconds

# A loose index scan from lane to lane: the cost does not grow with the backlog of a receiver.
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
        deliveries.target, deliveries.lane, deliveries.payload, deliveries.attempts AS number,
        webhooks.active IS NOT false AS is_active,
        coalesce(webhooks.secret_number, 1) AS secret_number, webhooks.rotated_at
"""
_LOG_ATTEMPT = """
    INSERT INTO delivery_attempts (delivery_id, number, tenant_id, status, error, seconds)
    VALUES (:id, :number, :tenant_id, :status, :error, :seconds) ON CONFLICT DO NOTHING
"""
_SET_DELIVERED = """
    UPDATE deliveries SET state = 'delivered', delivered_at = now(), next_at = NULL
    WHERE id = :id AND state = 'waiting'
"""
_SET_FAILED = """
    UPDATE deliveries SET state = 'failed', next_at = NULL
    WHERE id = :id AND state = 'waiting' AND attempts = :number
"""
_RETRY_LATER = """
    UPDATE deliveries SET next_at = now() + CAST(:pause AS interval)
    WHERE id = :id AND state = 'waiting' AND attempts = :number
"""
_SWITCH_OFF = """
    UPDATE webhooks SET active = false, updated_at = now()
    WHERE id = :webhook_id AND target = :target AND active RETURNING id
"""


@dataclass(frozen=True)
class Backoff:
    """Pauses between the attempts; after the last pause one more attempt, then it fails.

    Jitter spreads deliveries that failed at the same time. The total stays below a day, also when
    a receiver sends `Retry-After` of an hour each time.
    """

    pauses: Sequence[float] = (5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600, 9 * 3600)  # seconds
    jitter: float = 0.2  # the share of a pause that is random

    def pause(self, attempts: int, retry_after: float = 0) -> timedelta | None:
        """The pause after so many attempts; None: no further attempt."""
        if attempts > len(self.pauses):
            return None
        pause = self.pauses[attempts - 1] * random.uniform(1 - self.jitter, 1)
        return timedelta(seconds=max(pause, min(retry_after, _MAX_RETRY_AFTER)))


@dataclass(frozen=True, kw_only=True)
class ClaimedDelivery:
    """The right to one attempt of one delivery."""

    id: UUID
    number: int  # of the attempt: the fence
    tenant_id: UUID
    webhook_id: UUID | None  # None: the run's own notification
    kind: DeliveryKind
    target: str
    lane: str
    payload: dict[str, Any]
    is_active: bool  # False: its webhook was switched off meanwhile
    secret_number: int
    rotated_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class DeliveryFilter:
    """Selects deliveries; several states mean any of them."""

    state: Sequence[DeliveryState] = ()
    run: UUID | None = None
    webhook: UUID | None = None


def claim_delivery(
    session: Session, *, after: str, full: Collection[str], lease: timedelta
) -> ClaimedDelivery | None:
    """Claim the next due delivery, from the first lane after `after`; None if there is none.

    Lanes and tenants in `full` are left out.
    """
    row = statements.row(session, _CLAIM, after=after, full=list(full), lease=lease)
    if row is None:
        return None
    return ClaimedDelivery(**{**row._mapping, "kind": DeliveryKind(row.kind)})


def record_delivery(
    session: Session, claimed: ClaimedDelivery, result: SendResult, seconds: float, backoff: Backoff
) -> None:
    """Record an attempt. A success counts even if a later attempt is in flight."""
    lock = select(Delivery.id).where(Delivery.id == claimed.id).with_for_update()
    if session.scalar(lock) is None:  # its webhook was deleted
        return
    fence = {"id": claimed.id, "number": claimed.number}
    error = None if result.error is None else clean_text(result.error)
    fields = {"tenant_id": claimed.tenant_id, "status": result.status, "error": error}
    statements.execute(session, _LOG_ATTEMPT, **fence, **fields, seconds=round(seconds, 3))
    pause = backoff.pause(claimed.number, result.retry_after)
    gone = claimed.kind == DeliveryKind.WEBHOOK and result.status == _GONE
    if result.error is None:
        statements.execute(session, _SET_DELIVERED, id=claimed.id)
    elif result.final or gone or pause is None:
        statements.execute(session, _SET_FAILED, **fence)
    else:
        statements.execute(session, _RETRY_LATER, **fence, pause=pause)
    if gone:
        _switch_off(session, claimed)


def _switch_off(session: Session, claimed: ClaimedDelivery) -> None:
    """Switch off the webhook of a receiver that answered that it is gone."""
    params = {"webhook_id": claimed.webhook_id, "target": claimed.target}
    for webhook in statements.rows(session, _SWITCH_OFF, **params):
        before = {"active": True}
        after = {"active": False, "reason": f"its receiver answered {_GONE}"}
        owner = claimed.tenant_id
        audit.record(session, owner, "webhook.change", webhook.id, before=before, after=after)


def get_delivery(session: Session, tenant_id: UUID, delivery_id: UUID) -> Delivery:
    """A delivery by id. Raises NotFound."""
    return lookups.find(session, Delivery, tenant_id, delivery_id)


def page_of_deliveries(
    session: Session, tenant_id: UUID, which: DeliveryFilter, *, before: UUID | None, limit: int
) -> list[Delivery]:
    """Deliveries, newest first."""
    values = {"tenant_id": tenant_id, "run_id": which.run, "webhook_id": which.webhook}
    same = {name: value for name, value in values.items() if value is not None}
    statement = select(Delivery).filter_by(**same)
    if which.state:
        statement = statement.where(Delivery.state.in_(which.state))
    return lookups.page_before(session, statement, Delivery.id, before, limit)


def attempts_of_delivery(session: Session, delivery: Delivery) -> Sequence[DeliveryAttempt]:
    """The attempts of a delivery; a number that is missing was lost with its sender."""
    same = {"delivery_id": delivery.id, "tenant_id": delivery.tenant_id}
    statement = select(DeliveryAttempt).filter_by(**same).order_by(DeliveryAttempt.number)
    return session.scalars(statement).all()


def replay_delivery(session: Session, tenant_id: UUID, delivery_id: UUID) -> Delivery:
    """Send a delivery again, now, with the same id and to its webhook's present target.

    A failed one gets one attempt; one with attempts left goes on with them. Raises NotFound, and
    Conflict when its webhook is not active.
    """
    delivery = get_delivery(session, tenant_id, delivery_id)
    if delivery.webhook_id is not None:
        webhooks.require_active(webhooks.get_webhook(session, tenant_id, delivery.webhook_id))
    change = {"before": {"state": delivery.state}, "after": {"state": DeliveryState.WAITING}}
    audit.record_all(session, tenant_id, "delivery.replay", [audit.Change(delivery_id, **change)])
    delivery.state, delivery.delivered_at = DeliveryState.WAITING, None
    delivery.next_at = func.now()
    session.flush()
    if delivery.webhook_id is not None:
        webhooks.retarget_deliveries(session, tenant_id, delivery.webhook_id)
    return get_delivery(session, tenant_id, delivery_id)
