"""`/api/v1/runs/events`: what happens to all runs of a tenant, as pages or as a stream."""

from typing import Any

from flask import Response
from marshmallow import RAISE, Schema, fields

from api import paging, stream
from api.asked import Page
from api.blueprints import Blueprint
from api.context import caller, parts, tenant, transaction
from api.schemas import EventShown
from orchestrator import events

blueprint = Blueprint("events", __name__, url_prefix="/api/v1/runs/events", description="Events")


class TenantEventShown(EventShown):
    """Something that happened to one of the tenant's runs."""

    run_id = fields.UUID()


class TenantEventPage(Schema):
    """One page of events; `next_cursor` goes on even after the newest one, for what comes then."""

    items = fields.List(fields.Nested(TenantEventShown))
    next_cursor = fields.String()


@blueprint.route("")
@blueprint.arguments(Page, location="query", unknown=RAISE)
@blueprint.response(200, TenantEventPage)
def page(query: dict[str, Any]) -> dict[str, Any] | Response:
    """List what happened to all runs, in the order it was committed, or stream it as it happens

    With `Accept: text/event-stream` the answer begins after `Last-Event-ID`, else with what
    happens next, and stays open.
    """
    if stream.is_wanted():
        return stream.of_tenant(parts(), caller())
    after = paging.decode(query.get("cursor"), int, int) or events.BEGINNING
    with transaction() as session:
        found = events.of_tenant(session, tenant(), after=after, limit=query["limit"])
    last = (found[-1].tx, found[-1].id) if found else after
    return {"items": found, "next_cursor": paging.encode(*last)}
