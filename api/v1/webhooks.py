"""`/api/v1/webhooks` and `/api/v1/deliveries`: subscriptions to events, and their deliveries."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from marshmallow import fields, validate

from api.toolkit.blueprints import Blueprint, Created, created
from api.toolkit.context import caller, services, settings, tenant, transaction
from api.toolkit.fields import (
    BoundedList,
    Empty,
    PageQuery,
    StrictSchema,
    Timestamp,
    boolean,
    event_types,
)
from api.toolkit.wire import WireSchema, columns, inserted
from orchestrator import models
from orchestrator.access import signing
from orchestrator.access.permissions import Verb
from orchestrator.notifications import deliveries, webhooks
from orchestrator.notifications.webhooks import WebhookSecrets

deliveries_blueprint = Blueprint(
    "deliveries", __name__, url_prefix="/deliveries", description="The log of deliveries"
)


class DeliverySummarySchema(WireSchema):
    """One message; `id` is its `webhook-id`, the same in every attempt."""

    class Meta:
        include = columns(
            models.Delivery,
            "id webhook_id run_id kind target event state attempts next_at delivered_at created_at",
        )


class DeliveryAttemptSchema(WireSchema):
    """One attempt of a delivery; without an error it succeeded."""

    class Meta:
        include = columns(models.DeliveryAttempt, "number status error seconds attempted_at")


class DeliverySchema(DeliverySummarySchema):
    """One message with its payload and attempts."""

    payload = fields.Dict()
    log = fields.List(fields.Nested(DeliveryAttemptSchema))


class DeliveryStateQuery(PageQuery):
    """Filters and page of the deliveries of a webhook; any of several states."""

    state = BoundedList(fields.Enum(models.DeliveryState, by_value=True))


class DeliveryQuery(DeliveryStateQuery):
    """Filters and page of all deliveries."""

    run = fields.UUID()


@deliveries_blueprint.route("")
@deliveries_blueprint.paginated(
    DeliverySummarySchema, "id", UUID, bound="before", query=DeliveryQuery
)
def list_deliveries(query: dict[str, Any]) -> Sequence[models.Delivery]:
    """List deliveries, newest first"""
    return _deliveries(query)


@deliveries_blueprint.route("/<uuid:delivery_id>")
@deliveries_blueprint.response(200, DeliverySchema)
def show_delivery(delivery_id: UUID) -> dict[str, Any]:
    """Get a delivery with its attempts

    An attempt whose number is missing was lost with the process that sent it.
    """
    with transaction() as session:
        delivery = deliveries.get_delivery(session, tenant(), delivery_id)
        return {**vars(delivery), "log": deliveries.attempts_of_delivery(session, delivery)}


@deliveries_blueprint.route("/<uuid:delivery_id>/replay", methods=["POST"])
@deliveries_blueprint.arguments(Empty, required=False)
@deliveries_blueprint.response(200, DeliverySummarySchema)
def replay_delivery(body: dict[str, Any], delivery_id: UUID) -> models.Delivery:
    """Send a delivery once more, now, under the same id

    It goes to the current target of its webhook.
    """
    with transaction() as session:
        return deliveries.replay_delivery(session, tenant(), delivery_id)


def _deliveries(query: dict[str, Any], webhook: UUID | None = None) -> Sequence[models.Delivery]:
    before, limit = query.pop("before", None), query.pop("limit")
    where = deliveries.DeliveryFilter(**query, webhook=webhook)
    with transaction() as session:
        return deliveries.page_of_deliveries(session, tenant(), where, before=before, limit=limit)


blueprint = Blueprint("webhooks", __name__, url_prefix="/webhooks", description="Webhooks and mail")
_EVENTS = "webhooks events:read"  # what a webhook sends, its owner may read
# A secret takes the right to change the webhook: it is enough to forge messages.


def _target(**options: Any) -> fields.String:
    metadata = {"description": "a URL, or a mail address with kind mail"}
    return fields.String(validate=validate.Length(1, 2048), metadata=metadata, **options)


class WebhookRequest(StrictSchema):
    """A target and its events; without `workflow` those of every workflow."""

    target = _target(required=True)
    events = event_types(required=True)
    kind = fields.Enum(models.DeliveryKind, by_value=True, load_default=models.DeliveryKind.WEBHOOK)
    workflow = fields.String(validate=validate.Length(1, 100), allow_none=True)
    description = fields.String(validate=validate.Length(max=1000), allow_none=True)
    active = boolean(load_default=True)


class WebhookChangeRequest(StrictSchema):
    """The fields of a webhook that can be changed."""

    target = _target()
    events = event_types()
    workflow = fields.String(validate=validate.Length(1, 100), allow_none=True)
    description = fields.String(validate=validate.Length(max=1000), allow_none=True)
    active = boolean()


class WebhookSchema(WireSchema):
    """One webhook, without its secret."""

    class Meta:
        include = columns(
            models.Webhook,
            "id number kind target events workflow description active rotated_at created_by "
            "created_at updated_at",
        )


class WebhookWithSecretSchema(WebhookSchema):
    """One webhook with the secret for verifying its signatures; mail has none."""

    secret = fields.String(allow_none=True)


class WebhookSecretSchema(WireSchema):
    """The signing secret; for a day after a rotation messages are signed with both."""

    secret = fields.String()
    previous = fields.String(allow_none=True)
    previous_until = Timestamp(allow_none=True)


@blueprint.route("", methods=["POST"], resources=_EVENTS)
@blueprint.arguments(WebhookRequest)
@blueprint.response(201, WebhookWithSecretSchema)
def create(body: dict[str, Any]) -> Created:
    """Send events to a URL or a mail address

    Messages are signed as https://www.standardwebhooks.com says, with the `secret` of the answer.
    A failed delivery is retried for most of a day; the status 410 deactivates the webhook.
    """
    with transaction() as session:
        new = webhooks.NewWebhook(**body, created_by=caller().submitter)
        webhook = webhooks.create_webhook(session, tenant(), new, _target_policy())
    secret = None if webhook.kind == models.DeliveryKind.MAIL else _secrets(webhook).secret
    view = inserted(webhook, secret=secret)
    return created(view, "webhooks.show", webhook_id=webhook.id)


@blueprint.route("")
@blueprint.paginated(WebhookSchema, "id", UUID, bound="before")
def page(query: dict[str, Any]) -> Sequence[models.Webhook]:
    """List webhooks, newest first"""
    with transaction() as session:
        return webhooks.page_of_webhooks(session, tenant(), **{"before": None, **query})


@blueprint.route("/run-secret", verb=Verb.CHANGE, resources=_EVENTS)
@blueprint.response(200, WebhookSecretSchema)
def run_secret() -> WebhookSecrets:
    """Get the secret that signs the messages of a run's own notifications"""
    return WebhookSecrets(signing.webhook_secret(services().secret_key, tenant(), 1), None, None)


@blueprint.route("/<uuid:webhook_id>")
@blueprint.response(200, WebhookSchema)
def show(webhook_id: UUID) -> models.Webhook:
    """Get a webhook"""
    with transaction() as session:
        return webhooks.get_webhook(session, tenant(), webhook_id)


@blueprint.route("/<uuid:webhook_id>", methods=["PATCH"], resources=_EVENTS)
@blueprint.arguments(WebhookChangeRequest)
@blueprint.response(200, WebhookSchema)
def change(body: dict[str, Any], webhook_id: UUID) -> models.Webhook:
    """Change a webhook; waiting deliveries go to the new target"""
    with transaction() as session:
        return webhooks.change_webhook(session, tenant(), webhook_id, body, _target_policy())


@blueprint.route("/<uuid:webhook_id>", methods=["DELETE"], resources=_EVENTS)
@blueprint.response(204)
def delete(webhook_id: UUID) -> None:
    """Delete a webhook with all its deliveries"""
    with transaction() as session:
        webhooks.delete_webhook(session, tenant(), webhook_id)


@blueprint.route("/<uuid:webhook_id>/secret", verb=Verb.CHANGE, resources=_EVENTS)
@blueprint.response(200, WebhookSecretSchema)
def secret(webhook_id: UUID) -> WebhookSecrets:
    """Get the secret that signs the messages of a webhook"""
    with transaction() as session:
        return _secrets(webhooks.get_webhook(session, tenant(), webhook_id))


@blueprint.route("/<uuid:webhook_id>/rotate-secret", methods=["POST"], resources=_EVENTS)
@blueprint.arguments(Empty, required=False)
@blueprint.response(200, WebhookSecretSchema)
def rotate(body: dict[str, Any], webhook_id: UUID) -> WebhookSecrets:
    """Make a new secret; for a day messages are signed with the one before as well"""
    with transaction() as session:
        return _secrets(webhooks.rotate_webhook_secret(session, tenant(), webhook_id))


@blueprint.route("/<uuid:webhook_id>/test", methods=["POST"], resources=_EVENTS)
@blueprint.arguments(Empty, required=False)
@blueprint.response(201, DeliverySummarySchema)
def send_test(body: dict[str, Any], webhook_id: UUID) -> Created:
    """Send an empty `webhook.test` message"""
    with transaction() as session:
        delivery = webhooks.send_test(session, tenant(), webhook_id)
    return created(delivery, "deliveries.show_delivery", delivery_id=delivery.id)


@blueprint.route("/<uuid:webhook_id>/deliveries")
@blueprint.paginated(DeliverySummarySchema, "id", UUID, bound="before", query=DeliveryStateQuery)
def of_webhook(query: dict[str, Any], webhook_id: UUID) -> Sequence[models.Delivery]:
    """List the deliveries of a webhook, newest first"""
    with transaction() as session:
        webhooks.get_webhook(session, tenant(), webhook_id)
    return _deliveries(query, webhook_id)


def _target_policy() -> webhooks.TargetPolicy:
    return webhooks.TargetPolicy(settings().allow_private_targets, bool(settings().smtp_url))


def _secrets(webhook: models.Webhook) -> WebhookSecrets:
    return webhooks.webhook_secrets(services().secret_key, webhook, datetime.now(UTC))
