"""`/api/v1/deliveries`: every message to the outside, and the log of its tries."""

from typing import Any
from uuid import UUID

from marshmallow import RAISE, Schema, fields

from api import paging
from api.asked import Page, Strict
from api.blueprints import Blueprint
from api.context import caller, tenant, transaction
from api.schemas import Shown, Timestamp
from orchestrator import deliveries
from orchestrator.definitions import Role
from orchestrator.deliveries import DeliveryFilter
from orchestrator.delivery_models import Delivery, DeliveryState

blueprint = Blueprint(
    "deliveries", __name__, url_prefix="/api/v1/deliveries", description="The log of deliveries"
)


class DeliveryListed(Shown):
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


class TryShown(Shown):
    """One try of a delivery; without an error it was taken."""

    number = fields.Integer()
    status = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)
    seconds = fields.Float()
    attempted_at = Timestamp()


class DeliveryShown(DeliveryListed):
    """One message, what it says, and every try."""

    payload = fields.Dict()
    log = fields.List(fields.Nested(TryShown))


class DeliveryPage(Schema):
    """One page of deliveries; `next_cursor` is null on the last one."""

    items = fields.List(fields.Nested(DeliveryListed))
    next_cursor = fields.String(allow_none=True)


class ReplayAsked(Strict):
    """Nothing: what was sent before is sent again."""


class StateAsked(Page):
    """Which deliveries; a repeated state means any of them."""

    state = fields.List(fields.Enum(DeliveryState, by_value=True))


class DeliveryAsked(StateAsked):
    """Which deliveries of the tenant."""

    run = fields.UUID()


@blueprint.route("")
@blueprint.arguments(DeliveryAsked, location="query", unknown=RAISE)
@blueprint.response(200, DeliveryPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List deliveries, newest first"""
    return listed(query, run=query.pop("run", None))


@blueprint.route("/<uuid:delivery_id>")
@blueprint.response(200, DeliveryShown)
def show(delivery_id: UUID) -> dict[str, Any]:
    """Get a delivery with every try

    A number that is missing among the tries was lost with the process that sent it.
    """
    with transaction() as session:
        delivery = deliveries.get(session, tenant(), delivery_id)
        return {**vars(delivery), "log": deliveries.log(session, delivery)}


@blueprint.route("/<uuid:delivery_id>/replay", methods=["POST"])
@blueprint.arguments(ReplayAsked, required=False)
@blueprint.response(200, DeliveryListed)
def replay(body: dict[str, Any], delivery_id: UUID) -> Delivery:
    """Send a delivery once more, now, under the same id

    It goes to where its webhook points now.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        return deliveries.replay(session, tenant(), delivery_id)


def listed(
    query: dict[str, Any], *, webhook: UUID | None = None, run: UUID | None = None
) -> dict[str, Any]:
    """One page of deliveries, newest first."""
    (before,) = paging.decode(query.get("cursor"), UUID) or (None,)
    which = DeliveryFilter(state=query.get("state", ()), webhook=webhook, run=run)
    limit = query["limit"]
    with transaction() as session:
        found = deliveries.page(session, tenant(), which, before=before, limit=limit + 1)
    return paging.page(found, limit, lambda last: (last.id,))
