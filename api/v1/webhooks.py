"""`/api/v1/webhooks`: who is told about which events."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import url_for
from marshmallow import RAISE, Schema, fields, validate

from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import caller, services, settings, tenant, transaction
from api.toolkit.fields import ResponseSchema, Timestamp, boolean, event_types
from api.toolkit.requests import PageQuery, StrictSchema
from orchestrator.access import signing
from orchestrator.models import Delivery, DeliveryKind, DeliveryState, Role, Webhook
from orchestrator.notifications import deliveries, webhooks
from orchestrator.notifications.deliveries import DeliveryFilter
from orchestrator.notifications.webhooks import NewWebhook, TargetPolicy, WebhookSecrets

deliveries_blueprint = Blueprint(
    "deliveries", __name__, url_prefix="/api/v1/deliveries", description="The log of deliveries"
)


class DeliverySummarySchema(ResponseSchema):
    """One message; `id` is its `webhook-id`, the same at every try."""

    id = fields.UUID()
    webhook_id = fields.UUID(allow_none=True)
    run_id = fields.UUID(allow_none=True)
    kind = fields.String()
    target = fields.String()
    event = fields.String()
    state = fields.String()
    attempts = fields.Integer()
    next_at = Timestamp(allow_none=True)
    delivered_at = Timestamp(allow_none=True)
    created_at = Timestamp()


class DeliveryAttemptSchema(ResponseSchema):
    """One try of a delivery; without an error it was taken."""

    number = fields.Integer()
    status = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)
    seconds = fields.Float()
    attempted_at = Timestamp()


class DeliverySchema(DeliverySummarySchema):
    """One message, what it says, and every try."""

    payload = fields.Dict()
    log = fields.List(fields.Nested(DeliveryAttemptSchema))


class DeliveryPage(Schema):
    """One page of deliveries; `next_cursor` is null on the last one."""

    items = fields.List(fields.Nested(DeliverySummarySchema))
    next_cursor = fields.String(allow_none=True)


class ReplayRequest(StrictSchema):
    """Nothing: what was sent before is sent again."""


class DeliveryStateField(PageQuery):
    """Which deliveries; a repeated state means any of them."""

    state = fields.List(fields.Enum(DeliveryState, by_value=True))


class DeliveryQuery(DeliveryStateField):
    """Which deliveries of the tenant."""

    run = fields.UUID()


@deliveries_blueprint.route("")
@deliveries_blueprint.arguments(DeliveryQuery, location="query", unknown=RAISE)
@deliveries_blueprint.response(200, DeliveryPage)
def list_deliveries(query: dict[str, Any]) -> dict[str, Any]:
    """List deliveries, newest first"""
    return delivery_summary(query, run=query.pop("run", None))


@deliveries_blueprint.route("/<uuid:delivery_id>")
@deliveries_blueprint.response(200, DeliverySchema)
def show_delivery(delivery_id: UUID) -> dict[str, Any]:
    """Get a delivery with every try

    A number that is missing among the tries was lost with the process that sent it.
    """
    with transaction() as session:
        delivery = deliveries.get_delivery(session, tenant(), delivery_id)
        return {**vars(delivery), "log": deliveries.attempts_of_delivery(session, delivery)}


@deliveries_blueprint.route("/<uuid:delivery_id>/replay", methods=["POST"])
@deliveries_blueprint.arguments(ReplayRequest, required=False)
@deliveries_blueprint.response(200, DeliverySummarySchema)
def replay_delivery(body: dict[str, Any], delivery_id: UUID) -> Delivery:
    """Send a delivery once more, now, under the same id

    It goes to where its webhook points now.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        return deliveries.replay_delivery(session, tenant(), delivery_id)


def delivery_summary(
    query: dict[str, Any], *, webhook: UUID | None = None, run: UUID | None = None
) -> dict[str, Any]:
    """One page of deliveries, newest first."""
    (before,) = paging.decode(query.get("cursor"), UUID) or (None,)
    which = DeliveryFilter(state=query.get("state", ()), webhook=webhook, run=run)
    limit = query["limit"]
    with transaction() as session:
        found = deliveries.page_of_deliveries(
            session, tenant(), which, before=before, limit=limit + 1
        )
    return paging.page(found, limit, lambda last: (last.id,))


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


class WebhookAsked(StrictSchema):
    """Whom to tell about which events; without `workflow` about those of every workflow."""

    target = _target(required=True)
    events = event_types(required=True)
    kind = fields.Enum(DeliveryKind, by_value=True, load_default=DeliveryKind.WEBHOOK)
    workflow = _workflow()
    description = _description()
    active = boolean(load_default=True)


class WebhookChange(StrictSchema):
    """What may be changed of a webhook."""

    target = _target()
    events = event_types()
    workflow = _workflow()
    description = _description()
    active = boolean()


class RotateSecretAsked(StrictSchema):
    """Nothing: the secret before stays good for a day."""


class WebhookTestAsked(StrictSchema):
    """Nothing: a test says nothing."""


class WebhookShown(ResponseSchema):
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


class SecretShown(ResponseSchema):
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
        webhook = webhooks.create_webhook(session, tenant(), new, _limits())
    address = {"Location": url_for("webhooks.show", webhook_id=webhook.id)}
    secret = None if webhook.kind == DeliveryKind.MAIL else _secrets(webhook).secret
    return {**vars(webhook), "secret": secret}, 201, address


@blueprint.route("")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, WebhookPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List webhooks, newest first"""
    (before,) = paging.decode(query.get("cursor"), UUID) or (None,)
    with transaction() as session:
        found = webhooks.page_of_webhooks(
            session, tenant(), before=before, limit=query["limit"] + 1
        )
    return paging.page(found, query["limit"], lambda last: (last.id,))


@blueprint.route("/run-secret")
@blueprint.response(200, SecretShown)
def run_secret() -> WebhookSecrets:
    """Get the secret that messages are signed with which a run itself asked for"""
    _may_know_secrets()
    return WebhookSecrets(signing.webhook_secret(services().secret_key, tenant(), 1), None, None)


@blueprint.route("/<uuid:webhook_id>")
@blueprint.response(200, WebhookShown)
def show(webhook_id: UUID) -> Webhook:
    """Get a webhook"""
    with transaction() as session:
        return webhooks.get_webhook(session, tenant(), webhook_id)


@blueprint.route("/<uuid:webhook_id>", methods=["PATCH"])
@blueprint.arguments(WebhookChange)
@blueprint.response(200, WebhookShown)
def change(body: dict[str, Any], webhook_id: UUID) -> Webhook:
    """Change a webhook; what still waits goes to the new target"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        return webhooks.change_webhook(session, tenant(), webhook_id, body, _limits())


@blueprint.route("/<uuid:webhook_id>", methods=["DELETE"])
@blueprint.response(204)
def delete(webhook_id: UUID) -> None:
    """Delete a webhook with all its deliveries"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        webhooks.delete_webhook(session, tenant(), webhook_id)


@blueprint.route("/<uuid:webhook_id>/secret")
@blueprint.response(200, SecretShown)
def secret(webhook_id: UUID) -> WebhookSecrets:
    """Get the secret that the receiver checks with"""
    _may_know_secrets()
    with transaction() as session:
        return _secrets(webhooks.get_webhook(session, tenant(), webhook_id))


@blueprint.route("/<uuid:webhook_id>/rotate-secret", methods=["POST"])
@blueprint.arguments(RotateSecretAsked, required=False)
@blueprint.response(200, SecretShown)
def rotate(body: dict[str, Any], webhook_id: UUID) -> WebhookSecrets:
    """Make a new secret; for a day messages are signed with the one before as well"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        return _secrets(webhooks.rotate_webhook_secret(session, tenant(), webhook_id))


@blueprint.route("/<uuid:webhook_id>/test", methods=["POST"])
@blueprint.arguments(WebhookTestAsked, required=False)
@blueprint.response(201, DeliverySummarySchema)
def send_test(body: dict[str, Any], webhook_id: UUID) -> tuple[Delivery, int, dict[str, str]]:
    """Send a `webhook.test` that says nothing"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        delivery = webhooks.send_test(session, tenant(), webhook_id)
    return delivery, 201, {"Location": url_for("deliveries.show_delivery", delivery_id=delivery.id)}


@blueprint.route("/<uuid:webhook_id>/deliveries")
@blueprint.arguments(DeliveryStateField, location="query", unknown=RAISE)
@blueprint.response(200, DeliveryPage)
def of_webhook(query: dict[str, Any], webhook_id: UUID) -> dict[str, Any]:
    """List the deliveries of a webhook, newest first"""
    with transaction() as session:
        webhooks.get_webhook(session, tenant(), webhook_id)
    return delivery_summary(query, webhook=webhook_id)


def _limits() -> TargetPolicy:
    return TargetPolicy(settings().allow_private_targets, bool(settings().smtp_url))


def _may_know_secrets() -> None:
    caller().must_be(Role.ADMIN)
    caller().must_reach(blueprint.name, reads=False)  # who has the secret can write messages


def _secrets(webhook: Webhook) -> WebhookSecrets:
    return webhooks.webhook_secrets(services().secret_key, webhook, datetime.now(UTC))
