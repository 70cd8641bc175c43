"""`/api/v1/runs/events`: what happens to all runs of a tenant, as pages or as a stream."""

from typing import Any

from flask import Response
from marshmallow import RAISE, Schema, fields

from api.toolkit import paging, sse
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import caller, services, tenant, transaction
from api.toolkit.requests import PageQuery
from api.v1.responses import EventShown
from orchestrator import runs

blueprint = Blueprint("events", __name__, url_prefix="/api/v1/runs/events", description="Events")


class TenantEventShown(EventShown):
    """Something that happened to one of the tenant's runs."""

    run_id = fields.UUID()


class TenantEventPage(Schema):
    """One page of events; `next_cursor` goes on even after the newest one, for what comes then."""

    items = fields.List(fields.Nested(TenantEventShown))
    next_cursor = fields.String()


@blueprint.route("")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, TenantEventPage)
def page(query: dict[str, Any]) -> dict[str, Any] | Response:
    """List what happened to all runs, in the order it was committed, or stream it as it happens

    With `Accept: text/event-stream` the answer begins after `Last-Event-ID`, else with what
    happens next, and stays open.
    """
    if sse.wants_events():
        return sse.stream_tenant(services(), caller(), render_tenant_event)
    after = paging.decode(query.get("cursor"), int, int) or runs.BEGINNING
    with transaction() as session:
        found = runs.events_of_tenant(session, tenant(), after=after, limit=query["limit"])
    last = (found[-1].tx, found[-1].id) if found else after
    return {"items": found, "next_cursor": paging.encode(*last)}


def render_run_event(event: Any) -> str:
    """An event of one run on the wire; its id is its number in the run."""
    return sse.format_event(str(event.seq), _EVENT.dump(event))


def render_tenant_event(event: Any) -> str:
    """An event of a tenant's runs on the wire; its id is its position in the order of commits."""
    shown = {"run_id": str(event.run_id), **_EVENT.dump(event)}
    return sse.format_event(f"{event.tx}.{event.id}", shown)


_EVENT = EventShown()
