"""Events as they happen: server-sent events (WHATWG HTML, 9.2) of one run or of a whole tenant.

A stream replays what its reader has not seen, then goes on live. Nothing is lost between the two:
the reader listens to the feed first and reads the past afterwards, and what then comes twice is
left out by its position.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response, request
from sqlalchemy.exc import DBAPIError, TimeoutError

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

KEEP_ALIVE_SECONDS = (
    15.0  # seconds between two comments, so that nothing on the way closes the stream
)
CHECK_SECONDS = 60.0  # seconds after which the key is looked at again: it may be over meanwhile
_RECONNECT = 3000  # milliseconds after which a reader comes again
_AWAY = 1.0  # seconds between two tries to read while Postgres is away
_PAGE = 500
_LARGEST = 2**63 - 1

ReadEvents = Callable[[Position], list[Event]]  # the events after a position, up to a page of them
StreamPosition = Callable[[Any], Position]


def wants_events() -> bool:
    """Whether the caller asks for a stream rather than for a page."""
    kinds = ["application/json", "text/event-stream"]
    return request.accept_mimetypes.best_match(kinds) == kinds[1]


def stream_run(parts: Services, caller: Principal, run: Run, render: Render) -> Response:
    """A stream of one run's events that closes when the run has ended.

    An event that `render` makes nothing of is passed over, and leaves a gap in the ids. A reader
    that comes again when nothing more will come gets 204: an EventSource then stays away.
    """
    last = _last_event_id(r"(\d{1,10})()", "the `id` of the last event, a number") or (0, 0)
    if run.state in FINAL_RUNS and last[0] >= run.event_seq:
        return Response(status=204)

    def read(after: Position) -> list[Event]:
        with parts.database.transaction(run.tenant_id) as session:
            return runs.events_of_run(session, run.id, after=after[0], limit=_PAGE)

    position = (run.event_seq, 0)
    listener = parts.feed.listen(run.id, of_tenant=False, position=position, render=render)
    stream = _follow(listener, read, _seq, min(last, position), TERMINAL_EVENTS)
    return _answer(parts, caller, listener, stream)


def stream_tenant(parts: Services, caller: Principal, render: Render) -> Response:
    """A stream of the events of a tenant's runs: new ones, or those after the last one seen."""
    tenant_id = caller.tenant_id
    last = _last_event_id(r"(\d{1,19})\.(\d{1,19})", "the `id` of the last event, like 812.4711")
    with parts.database.transaction(tenant_id) as session:
        now = runs.horizon(session)

    def read(after: Position) -> list[Event]:
        with parts.database.transaction(tenant_id) as session:
            return runs.events_of_tenant(session, tenant_id, after=after, limit=_PAGE)

    listener = parts.feed.listen(tenant_id, of_tenant=True, position=now, render=render)
    stream = _follow(listener, read, _committed, min(last or now, now), frozenset())
    return _answer(parts, caller, listener, stream)


def format_event(identity: str, data: dict[str, Any]) -> str:
    """One event on the wire. Unnamed: a name would keep it from an EventSource's `onmessage`."""
    return f"id: {identity}\ndata: {json.dumps(data)}\n\n"


def _follow(
    listener: Listener,
    read: ReadEvents,
    place: StreamPosition,
    last: Position,
    ends: frozenset[str],
) -> Iterator[str]:
    """What a reader gets who has seen everything up to `last`."""
    yield f"retry: {_RECONNECT}\n\n"
    while True:
        listener.catch_up()
        ended = False
        try:
            while page := read(last):
                yield from filter(None, map(listener.render, page))
                last, ended = place(page[-1]), page[-1].type in ends
        except (DBAPIError, TimeoutError) as error:
            if not is_transient(error):
                raise
            yield ": the database is away\n\n"
            time.sleep(_AWAY)
            continue
        if ended:
            return
        spoke = time.monotonic()
        while not listener.behind:
            quiet = spoke + KEEP_ALIVE_SECONDS - time.monotonic()
            found = listener.next(quiet) if quiet > 0 else None
            if found is None:
                yield ": keep-alive\n\n"
                spoke = time.monotonic()
            elif found.position > last:
                if found.text:
                    yield found.text
                    spoke = time.monotonic()
                last = found.position
                if found.type in ends:
                    return


def _while_live(parts: Services, caller: Principal, stream: Iterator[str]) -> Iterator[str]:
    """The stream, as long as the key it was asked with is good."""
    looked = time.monotonic()
    for text in stream:
        if time.monotonic() - looked > CHECK_SECONDS:
            with parts.doors.transaction() as session:
                if not authentication.is_live(session, caller):
                    return
            looked = time.monotonic()
        yield text


def _answer(
    parts: Services, caller: Principal, listener: Listener, stream: Iterator[str]
) -> Response:
    answer = Response(_while_live(parts, caller, stream), mimetype="text/event-stream")
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["X-Accel-Buffering"] = "no"  # nginx would collect events before it sends them
    answer.call_on_close(lambda: parts.feed.leave(listener))
    return answer


def _last_event_id(pattern: str, right: str) -> Position | None:
    given = request.headers.get("Last-Event-ID", "")
    if not given:
        return None
    found = re.fullmatch(pattern, given, re.ASCII)
    numbers = [int(number or 0) for number in found.groups()] if found else []
    if not numbers or max(numbers) > _LARGEST:
        raise Invalid("this is no event of ours", Mistake("/headers/Last-Event-ID", right))
    return numbers[0], numbers[1]


def _seq(event: Any) -> Position:
    return event.seq, 0


def _committed(event: Any) -> Position:
    return event.tx, event.id
