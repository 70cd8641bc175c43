"""`/api/v1/runs/events`: the events of all runs of a tenant, as pages or as a stream."""

from typing import Any

from flask import Response
from marshmallow import RAISE, fields

from api.toolkit import paging, sse
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import caller, services, tenant, transaction
from api.toolkit.fields import PageQuery
from api.toolkit.wire import WireSchema
from api.v1.responses import EventSchema
from orchestrator import runs

blueprint = Blueprint("events", __name__, url_prefix="/runs/events", description="Events")


class TenantEventSchema(EventSchema):
    """An event of one of the tenant's runs."""

    run_id = fields.UUID()


class TenantEventPage(WireSchema):
    """One page of events; `next_cursor` is never null: later events follow it."""

    items = fields.List(fields.Nested(TenantEventSchema))
    next_cursor = fields.String()


@blueprint.route("")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, TenantEventPage)
@blueprint.streamed(of_run=False)
def page(query: dict[str, Any]) -> dict[str, Any] | Response:
    """List the events of all runs in commit order, or stream them

    With `Accept: text/event-stream` the answer has the events after `Last-Event-ID`, without it
    new ones, and stays open.
    """
    if sse.wants_events():
        return sse.stream_tenant(services(), caller(), render_tenant_event)
    after = paging.decode(query.get("cursor"), int, int) or runs.BEGINNING
    with transaction() as session:
        rows = runs.events_of_tenant(session, tenant(), after=after, limit=query["limit"])
    last = (rows[-1].tx, rows[-1].id) if rows else after
    return {"items": rows, "next_cursor": paging.encode(*last)}


def render_run_event(event: Any) -> str:
    """An event in the stream of a run; its id is its `seq`."""
    return sse.format_event(str(event.seq), _EVENT.dump(event))


def render_tenant_event(event: Any) -> str:
    """An event in the stream of a tenant; its id is its position in commit order."""
    data = {"run_id": str(event.run_id), **_EVENT.dump(event)}
    return sse.format_event(f"{event.tx}.{event.id}", data)


_EVENT = EventSchema()
