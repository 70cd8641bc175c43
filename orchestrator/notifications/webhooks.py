"""Webhooks: subscriptions to events, their targets, and the secrets that sign deliveries."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from orchestrator import audit, workflows
from orchestrator.access import signing
from orchestrator.access.references import REFERENCE, SecretMissing, name_of
from orchestrator.db import lookups
from orchestrator.errors import Conflict, Invalid, Mistake
from orchestrator.models import Delivery, DeliveryKind, Webhook
from orchestrator.notifications import targets

ROTATION_PERIOD = timedelta(days=1)  # deliveries carry the previous signature, too
TEST_EVENT = "webhook.test"  # sent whatever events the webhook subscribes to
MAX_WEBHOOKS = 100  # of a tenant: each one costs every event some work

_TEST = """
    INSERT INTO deliveries (id, tenant_id, webhook_id, kind, target, lane, event, payload)
    SELECT new_delivery_id(), sent.tenant_id, sent.id, sent.kind, sent.target,
           delivery_lane(sent.kind, sent.tenant_id, sent.target), :event,
           jsonb_build_object(
               'type', CAST(:event AS text),
               'timestamp', in_utc(now()),
               'data', jsonb_build_object('webhook', sent.id))
    FROM webhooks sent WHERE sent.id = :id AND sent.tenant_id = :tenant_id
    RETURNING id
"""
_RETARGET = """
    UPDATE deliveries SET target = sent.target,
        lane = delivery_lane(sent.kind, sent.tenant_id, sent.target) FROM webhooks sent
    WHERE sent.id = :id AND sent.tenant_id = :tenant_id
      AND deliveries.webhook_id = sent.id AND deliveries.state = 'waiting'
"""


@dataclass(frozen=True, kw_only=True)
class NewWebhook:
    """A request for a webhook."""

    target: str
    events: Sequence[str]
    kind: DeliveryKind = DeliveryKind.WEBHOOK
    workflow: str | None = None  # None: every workflow
    description: str | None = None
    active: bool = True
    created_by: str | None = None


@dataclass(frozen=True)
class TargetPolicy:
    """Which targets this deployment allows."""

    allow_private: bool
    mail: bool  # a mail server is configured


@dataclass(frozen=True)
class WebhookSecrets:
    """The secrets that sign deliveries; two for a day after a rotation."""

    secret: str
    previous: str | None
    previous_until: datetime | None


def create_webhook(
    session: Session, tenant_id: UUID, new: NewWebhook, limits: TargetPolicy
) -> Webhook:
    """Subscribe a target to events.

    Raises Invalid for a target that is not allowed, NotFound for an unknown workflow, and Conflict
    when the tenant has MAX_WEBHOOKS.
    """
    _check(session, tenant_id, new.kind, asdict(new), limits)
    if lookups.count(session, Webhook, Webhook.tenant_id == tenant_id) >= MAX_WEBHOOKS:
        raise Conflict(f"a tenant has at most {MAX_WEBHOOKS} webhooks; delete one, or widen one")
    webhook = Webhook(tenant_id=tenant_id, **asdict(new))
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    audit.record(session, tenant_id, "webhook.create", webhook.id, after=_recorded(asdict(new)))
    return webhook


def get_webhook(
    session: Session, tenant_id: UUID, webhook_id: UUID, *, lock: bool = False
) -> Webhook:
    """A webhook by id. Raises NotFound."""
    return lookups.find(session, Webhook, tenant_id, webhook_id, lock=lock)


def page_of_webhooks(
    session: Session, tenant_id: UUID, *, before: UUID | None, limit: int
) -> list[Webhook]:
    """The tenant's webhooks, newest first."""
    statement = select(Webhook).where(Webhook.tenant_id == tenant_id)
    return lookups.page_before(session, statement, Webhook.id, before, limit)


def change_webhook(
    session: Session,
    tenant_id: UUID,
    webhook_id: UUID,
    changes: dict[str, Any],
    limits: TargetPolicy,
) -> Webhook:
    """Change a webhook; waiting deliveries go to a new target. Raises Invalid and NotFound."""
    webhook = get_webhook(session, tenant_id, webhook_id, lock=True)
    _check(session, tenant_id, webhook.kind, changes, limits)
    before = _recorded({name: getattr(webhook, name) for name in changes})
    after = _recorded(changes)
    audit.record(session, tenant_id, "webhook.change", webhook_id, before=before, after=after)
    for name, value in changes.items():
        setattr(webhook, name, value)
    webhook.updated_at = func.now()
    session.flush()
    if "target" in changes:
        retarget_deliveries(session, tenant_id, webhook_id)
    session.refresh(webhook)
    return webhook


def delete_webhook(session: Session, tenant_id: UUID, webhook_id: UUID) -> None:
    """Delete a webhook and all its deliveries. Raises NotFound."""
    webhook = get_webhook(session, tenant_id, webhook_id, lock=True)
    names = ("kind", "target", "events", "workflow", "active", "created_by")
    before = _recorded({name: getattr(webhook, name) for name in names})
    audit.record(session, tenant_id, "webhook.delete", webhook_id, before=before)
    session.delete(webhook)
    session.flush()


def rotate_webhook_secret(session: Session, tenant_id: UUID, webhook_id: UUID) -> Webhook:
    """Sign with a new secret, and for a day with the previous one as well.

    Raises NotFound, and Conflict for mail, which is not signed.
    """
    webhook = get_webhook(session, tenant_id, webhook_id, lock=True)
    _must_sign(webhook)
    change = {
        "before": {"secret_number": webhook.secret_number},
        "after": {"secret_number": webhook.secret_number + 1},
    }
    audit.record(session, tenant_id, "webhook.rotate_secret", webhook_id, **change)
    webhook.secret_number += 1
    webhook.rotated_at = webhook.updated_at = func.now()
    session.flush()
    session.refresh(webhook)
    return webhook


def webhook_secrets(key: str, webhook: Webhook, now: datetime) -> WebhookSecrets:
    """The secrets that sign deliveries now. Raises Conflict for mail, which is not signed."""
    _must_sign(webhook)
    current, *previous = (
        signing.webhook_secret(key, webhook.id, number)
        for number in valid_secret_numbers(webhook.secret_number, webhook.rotated_at, now)
    )
    until = webhook.rotated_at + ROTATION_PERIOD if previous and webhook.rotated_at else None
    return WebhookSecrets(current, previous[0] if previous else None, until)


def valid_secret_numbers(number: int, rotated_at: datetime | None, now: datetime) -> list[int]:
    """The numbers of the secrets that sign deliveries now, the newest first."""
    both = rotated_at is not None and now < rotated_at + ROTATION_PERIOD
    return [number, number - 1] if both else [number]


def send_test(session: Session, tenant_id: UUID, webhook_id: UUID) -> Delivery:
    """Send a test message. Raises NotFound, and Conflict unless the webhook is active."""
    require_active(get_webhook(session, tenant_id, webhook_id))
    params = {"id": webhook_id, "tenant_id": tenant_id, "event": TEST_EVENT}
    delivery = session.get_one(Delivery, session.scalars(text(_TEST), params).one())
    after = {"delivery_id": delivery.id}
    audit.record(session, tenant_id, "webhook.test", webhook_id, after=after)
    return delivery


def retarget_deliveries(session: Session, tenant_id: UUID, webhook_id: UUID) -> None:
    """Point the waiting deliveries of a webhook to its present target."""
    session.execute(text(_RETARGET), {"id": webhook_id, "tenant_id": tenant_id})


def require_active(webhook: Webhook) -> None:
    """Raise Conflict for a webhook that is switched off."""
    if not webhook.active:
        raise Conflict(f"webhook {webhook.id} is not active; PATCH it with `active: true` first")


def _recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the audit log: of a URL the host, and a digest of all of it.

    Its path or query may be a secret, as those of chat services are.
    """
    parts = urlsplit(values.get("target", ""))
    if not parts.netloc:
        return dict(values)
    digest = hashlib.sha256(values["target"].encode()).hexdigest()[:8]
    return {**values, "target": f"{parts.scheme}://{parts.netloc}/… (SHA-256 {digest}…)"}


def check_url_with_secrets(url: str, *, allow_private: bool) -> None:
    """Check a URL in which `secret://NAME` may stand, or that is one. Raises TargetRefused.

    What a reference stands for is checked before each try, as any URL is.
    """
    try:
        known = REFERENCE.sub(lambda match: "x" * bool(name_of(match)), url)
    except SecretMissing as error:
        raise targets.TargetRefused(str(error)) from None
    if known != "x" or url == known:
        targets.check_url(known, allow_private=allow_private)


def _must_sign(webhook: Webhook) -> None:
    if webhook.kind == DeliveryKind.MAIL:
        raise Conflict("mail is not signed, so it has no secret")


def _check(
    session: Session,
    tenant_id: UUID,
    kind: DeliveryKind,
    changes: Mapping[str, Any],
    limits: TargetPolicy,
) -> None:
    if kind == DeliveryKind.MAIL and not limits.mail:
        mistake = Mistake("/kind", "set ORCHESTRATOR_SMTP_URL to a mail server, then mail is sent")
        raise Invalid("this deployment sends no mail", mistake)
    try:
        if "target" in changes and kind == DeliveryKind.MAIL:
            targets.check_mail_address(changes["target"])
        elif "target" in changes:
            check_url_with_secrets(changes["target"], allow_private=limits.allow_private)
    except targets.TargetRefused as error:
        mistake = Mistake("/target", str(error))
        raise Invalid("nothing can be sent to this target", mistake) from None
    if changes.get("workflow") is not None:
        workflows.get(session, tenant_id, changes["workflow"])
