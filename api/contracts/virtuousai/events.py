"""The addresses of events: the stream of a run, and the list."""

from typing import Any

from flask import Response

from api.contracts.virtuousai.actors import event_views
from api.contracts.virtuousai.requests import EventsQuery
from api.contracts.virtuousai.responses import EventList, StreamedEvent
from api.contracts.virtuousai.surface import EVENTS, RUNS, answers, blueprint, path_id, refuses
from api.contracts.virtuousai.vocabulary import EVENT_TYPES, RESOURCE
from api.toolkit import paging, sse
from api.toolkit.context import caller, services, tenant, transaction
from orchestrator import runs

_MAX_COUNT = 10_000  # events
_STREAMED = StreamedEvent()


@blueprint.route(f"{RUNS}/<run_id>/events")
@blueprint.streamed()
@refuses(404)
def follow(run_id: str) -> Response:
    """Stream what happens to an automation run

    Replays what came after `Last-Event-ID`, or everything, goes on live, and closes when the run
    has ended. Ids go up and have gaps.
    """
    with transaction() as session:
        run = runs.get(session, tenant(), path_id(run_id, "run_id"))
    return sse.stream_run(services(), caller(), run, render)


@blueprint.route(EVENTS, resources="events")
@blueprint.arguments(EventsQuery, location="query")
@answers(EventList)
def history(query: dict[str, Any]) -> dict[str, Any]:
    """List what happened to the runs of the tenant

    The newest first. `total` is exact up to 10,000.
    """
    limit, offset = query.pop("limit"), query.pop("offset")
    name, resource = query.pop("event_type", None), query.pop("resource_type", RESOURCE)
    types = [kind for kind, word in EVENT_TYPES.items() if name in (None, word)]
    filters = runs.EventFilter(types=types if resource == RESOURCE else (), **query)
    part = paging.OffsetPage(offset, limit, filters)
    with transaction() as session:
        rows = runs.newest_events(
            session, tenant(), filters, limit=limit + 1, offset=part.skip, before=part.after
        )
        total = part.total
        if total is None:
            total = runs.count_events(session, tenant(), filters, most=_MAX_COUNT)
        part.end([(event.tx, event.id) for event in rows[:limit]], total)
        events = event_views(session, rows[:limit])
    page = {"limit": limit, "offset": offset, "total": total}
    return {"events": events, "has_next": len(rows) > limit, **page}


def render(event: Any) -> str:
    """The event in the stream of its run; "" for one without a published name."""
    if event.type not in EVENT_TYPES:
        return ""
    body = _STREAMED.dump(event)
    head = {"event": body["eventType"], "data": body["payload"], "id": str(event.seq)}
    return sse.format_event(str(event.seq), head | body)
