"""Server-sent events (WHATWG HTML, 9.2) of one run or of all runs of a tenant.

A stream replays the events after `Last-Event-ID`, then follows the feed. No event is missed in
between: the stream listens to the feed before it reads from the database, and skips by position
what it gets from both.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response, request
from sqlalchemy.exc import DBAPIError, TimeoutError

from api.capacity import gate
from api.toolkit.context import Services
from api.toolkit.event_feed import Listener, Render
from orchestrator import runs
from orchestrator.access import authentication
from orchestrator.access.authentication import Principal
from orchestrator.db.engine import is_transient
from orchestrator.db.outbox import TERMINAL_EVENTS
from orchestrator.errors import Invalid, Mistake
from orchestrator.models import Event, Run
from orchestrator.runs import Position
from orchestrator.states import FINAL_RUNS

KEEP_ALIVE_SECONDS = 15.0  # between two comments, so that no proxy closes an idle stream
CHECK_SECONDS = 60.0  # between two checks that the key is still valid
_RECONNECT = 3000  # milliseconds before a client reconnects
_RETRY_PAUSE = 1.0  # seconds between two reads while Postgres is unavailable
_PAGE = 500
_MAX_BIGINT = 2**63 - 1

ReadEvents = Callable[[Position], list[Event]]  # up to a page of the events after a position


def wants_events() -> bool:
    """Whether `Accept` prefers a stream to a page."""
    kinds = ["application/json", "text/event-stream"]
    return request.accept_mimetypes.best_match(kinds) == kinds[1]


def stream_run(services: Services, caller: Principal, run: Run, render: Render) -> Response:
    """A stream of one run's events that closes when the run has ended.

    An event for which `render` returns "" is left out, and leaves a gap in the ids. A client that
    has all events of an ended run gets 204, which stops an EventSource from reconnecting.
    """
    last = _last_event_id(r"(\d{1,10})()", "the `id` of the last event, a number") or (0, 0)
    if run.state in FINAL_RUNS and last[0] >= run.event_seq:
        return Response(status=204)

    ticket = gate.current()

    def read(after: Position) -> list[Event]:
        with ticket.turn(), services.database.transaction(run.tenant_id) as session:
            return runs.events_of_run(session, run.id, after=after[0], limit=_PAGE)

    position = (run.event_seq, 0)
    leave = ticket.hold_stream()
    listener = services.feed.listen(run.id, of_tenant=False, position=position, render=render)
    response = _response(services, caller, listener, read, min(last, position))
    response.call_on_close(leave)
    return response


def stream_tenant(services: Services, caller: Principal, render: Render) -> Response:
    """A stream of the events of a tenant's runs: new ones, or those after `Last-Event-ID`."""
    tenant_id = caller.tenant_id
    last = _last_event_id(r"(\d{1,19})\.(\d{1,19})", "the `id` of the last event, like 812.4711")
    with services.database.transaction(tenant_id) as session:
        now = runs.horizon(session)

    ticket = gate.current()

    def read(after: Position) -> list[Event]:
        with ticket.turn(), services.database.transaction(tenant_id) as session:
            return runs.events_of_tenant(session, tenant_id, after=after, limit=_PAGE)

    leave = ticket.hold_stream()
    listener = services.feed.listen(tenant_id, of_tenant=True, position=now, render=render)
    response = _response(services, caller, listener, read, min(last or now, now))
    response.call_on_close(leave)
    return response


def format_event(identity: str, data: dict[str, Any]) -> str:
    """One unnamed event: EventSource does not call `onmessage` for named ones."""
    return f"id: {identity}\ndata: {json.dumps(data)}\n\n"


def _follow(
    listener: Listener, read: ReadEvents, last: Position, ends: frozenset[str]
) -> Iterator[str]:
    """The text of a stream from after `last` to an event whose type is in `ends`."""
    yield f"retry: {_RECONNECT}\n\n"
    while True:
        listener.behind = False  # events are queued again; the dropped ones are read below
        ended = False
        try:
            while page := read(last):
                yield from filter(None, map(listener.render, page))
                last, ended = listener.channel.position_of(page[-1]), page[-1].type in ends
        except (DBAPIError, TimeoutError) as error:
            if not is_transient(error):
                raise
            yield ": the database is away\n\n"
            time.sleep(_RETRY_PAUSE)
            continue
        if ended:
            return
        last_write = time.monotonic()
        while not listener.behind:
            timeout = last_write + KEEP_ALIVE_SECONDS - time.monotonic()
            event = listener.next(timeout) if timeout > 0 else None
            if event is None:
                yield ": keep-alive\n\n"
                last_write = time.monotonic()
            elif event.position > last:
                if event.text:
                    yield event.text
                    last_write = time.monotonic()
                last = event.position
                if event.type in ends:
                    return


def _while_live(services: Services, caller: Principal, stream: Iterator[str]) -> Iterator[str]:
    """The stream, as long as the caller's key is valid."""
    checked_at = time.monotonic()
    for text in stream:
        if time.monotonic() - checked_at > CHECK_SECONDS:
            with services.unscoped_database.transaction() as session:
                if not authentication.is_live(session, caller):
                    return
            checked_at = time.monotonic()
        yield text


def _response(
    services: Services, caller: Principal, listener: Listener, read: ReadEvents, start: Position
) -> Response:
    ends = frozenset() if listener.channel.of_tenant else TERMINAL_EVENTS
    stream = _while_live(services, caller, _follow(listener, read, start, ends))
    response = Response(stream, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would buffer events
    response.call_on_close(lambda: services.feed.leave(listener))
    return response


def _last_event_id(pattern: str, hint: str) -> Position | None:
    """The position in the header, None without it. Raises Invalid with the hint."""
    value = request.headers.get("Last-Event-ID", "")
    if not value:
        return None
    match = re.fullmatch(pattern, value, re.ASCII)
    numbers = [int(number or 0) for number in match.groups()] if match else []
    if not numbers or max(numbers) > _MAX_BIGINT:
        raise Invalid("this is no event of ours", Mistake("/headers/Last-Event-ID", hint))
    return numbers[0], numbers[1]
