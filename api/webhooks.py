"""`/api/v1/webhooks`: who is told about which events."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import url_for
from marshmallow import RAISE, Schema, fields, validate

from api import paging, receivers
from api.asked import Page, Strict
from api.blueprints import Blueprint
from api.context import caller, parts, settings, tenant, transaction
from api.deliveries import DeliveryListed, DeliveryPage, StateAsked, listed
from api.schemas import Shown, Timestamp
from orchestrator import signing, webhooks
from orchestrator.definitions import Role
from orchestrator.delivery_models import Delivery, DeliveryKind, Webhook
from orchestrator.webhooks import Limits, NewWebhook, Secrets

blueprint = Blueprint(
    "webhooks", __name__, url_prefix="/api/v1/webhooks", description="Webhooks and mail"
)


def _target(**options: Any) -> fields.String:
    told = {"description": "a URL, or a mail address with kind mail"}
    return fields.String(validate=validate.Length(1, 2048), metadata=told, **options)


def _description() -> fields.String:
    return fields.String(validate=validate.Length(max=1000), allow_none=True)


def _workflow() -> fields.String:
    return fields.String(validate=validate.Length(1, 100), allow_none=True)


class WebhookAsked(Strict):
    """Whom to tell about which events; without `workflow` about those of every workflow."""

    target = _target(required=True)
    events = receivers.event_types(required=True)
    kind = fields.Enum(DeliveryKind, by_value=True, load_default=DeliveryKind.WEBHOOK)
    workflow = _workflow()
    description = _description()
    active = receivers.boolean(load_default=True)


class WebhookChange(Strict):
    """What may be changed of a webhook."""

    target = _target()
    events = receivers.event_types()
    workflow = _workflow()
    description = _description()
    active = receivers.boolean()


class RotateSecretAsked(Strict):
    """Nothing: the secret before stays good for a day."""


class WebhookTestAsked(Strict):
    """Nothing: a test says nothing."""


class WebhookShown(Shown):
    """One webhook, without its secret."""

    id = fields.UUID()
    number = fields.Integer()
    kind = fields.String()
    target = fields.String()
    events = fields.List(fields.String())
    workflow = fields.String(allow_none=True)
    description = fields.String(allow_none=True)
    active = fields.Boolean()
    rotated_at = Timestamp(allow_none=True)
    created_by = fields.String(allow_none=True)
    created_at = Timestamp()
    updated_at = Timestamp()


class WebhookMade(WebhookShown):
    """One webhook with the secret that its receiver checks with; mail has none."""

    secret = fields.String(allow_none=True)


class WebhookPage(Schema):
    """One page of webhooks; `next_cursor` is null on the last one."""

    items = fields.List(fields.Nested(WebhookShown))
    next_cursor = fields.String(allow_none=True)


class SecretShown(Shown):
    """What a receiver checks with; for a day after a rotation messages are signed with both."""

    secret = fields.String()
    previous = fields.String(allow_none=True)
    previous_until = Timestamp(allow_none=True)


@blueprint.route("", methods=["POST"])
@blueprint.arguments(WebhookAsked)
@blueprint.response(201, WebhookMade)
def create(body: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Tell a URL or a mail address about events

    Messages are signed as https://www.standardwebhooks.com says, with the `secret` of the answer.
    A message that is not taken is tried again for most of a day; 410 switches the webhook off.
    """
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        new = NewWebhook(**body, created_by=caller().submitter)
        webhook = webhooks.create(session, tenant(), new, _limits())
    address = {"Location": url_for("webhooks.show", webhook_id=webhook.id)}
    secret = None if webhook.kind == DeliveryKind.MAIL else _secrets(webhook).secret
    return {**vars(webhook), "secret": secret}, 201, address


@blueprint.route("")
@blueprint.arguments(Page, location="query", unknown=RAISE)
@blueprint.response(200, WebhookPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List webhooks, newest first"""
    (before,) = paging.decode(query.get("cursor"), UUID) or (None,)
    with transaction() as session:
        found = webhooks.page(session, tenant(), before=before, limit=query["limit"] + 1)
    return paging.page(found, query["limit"], lambda last: (last.id,))


@blueprint.route("/run-secret")
@blueprint.response(200, SecretShown)
def run_secret() -> Secrets:
    """Get the secret that messages are signed with which a run itself asked for"""
    _may_know_secrets()
    return Secrets(signing.webhook_secret(parts().secret_key, tenant(), 1), None, None)


@blueprint.route("/<uuid:webhook_id>")
@blueprint.response(200, WebhookShown)
def show(webhook_id: UUID) -> Webhook:
    """Get a webhook"""
    with transaction() as session:
        return webhooks.get(session, tenant(), webhook_id)


@blueprint.route("/<uuid:webhook_id>", methods=["PATCH"])
@blueprint.arguments(WebhookChange)
@blueprint.response(200, WebhookShown)
def change(body: dict[str, Any], webhook_id: UUID) -> Webhook:
    """Change a webhook; what still waits goes to the new target"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        return webhooks.change(session, tenant(), webhook_id, body, _limits())


@blueprint.route("/<uuid:webhook_id>", methods=["DELETE"])
@blueprint.response(204)
def delete(webhook_id: UUID) -> None:
    """Delete a webhook with all its deliveries"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        webhooks.delete(session, tenant(), webhook_id)


@blueprint.route("/<uuid:webhook_id>/secret")
@blueprint.response(200, SecretShown)
def secret(webhook_id: UUID) -> Secrets:
    """Get the secret that the receiver checks with"""
    _may_know_secrets()
    with transaction() as session:
        return _secrets(webhooks.get(session, tenant(), webhook_id))


@blueprint.route("/<uuid:webhook_id>/rotate-secret", methods=["POST"])
@blueprint.arguments(RotateSecretAsked, required=False)
@blueprint.response(200, SecretShown)
def rotate(body: dict[str, Any], webhook_id: UUID) -> Secrets:
    """Make a new secret; for a day messages are signed with the one before as well"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        return _secrets(webhooks.rotate(session, tenant(), webhook_id))


@blueprint.route("/<uuid:webhook_id>/test", methods=["POST"])
@blueprint.arguments(WebhookTestAsked, required=False)
@blueprint.response(201, DeliveryListed)
def send_test(body: dict[str, Any], webhook_id: UUID) -> tuple[Delivery, int, dict[str, str]]:
    """Send a `webhook.test` that says nothing"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        delivery = webhooks.send_test(session, tenant(), webhook_id)
    return delivery, 201, {"Location": url_for("deliveries.show", delivery_id=delivery.id)}


@blueprint.route("/<uuid:webhook_id>/deliveries")
@blueprint.arguments(StateAsked, location="query", unknown=RAISE)
@blueprint.response(200, DeliveryPage)
def of_webhook(query: dict[str, Any], webhook_id: UUID) -> dict[str, Any]:
    """List the deliveries of a webhook, newest first"""
    with transaction() as session:
        webhooks.get(session, tenant(), webhook_id)
    return listed(query, webhook=webhook_id)


def _limits() -> Limits:
    return Limits(settings().allow_private_targets, bool(settings().smtp_url))


def _may_know_secrets() -> None:
    caller().must_be(Role.ADMIN)
    caller().must_reach(blueprint.name, reads=False)  # who has the secret can write messages


def _secrets(webhook: Webhook) -> Secrets:
    return webhooks.secrets(parts().secret_key, webhook, datetime.now(UTC))
