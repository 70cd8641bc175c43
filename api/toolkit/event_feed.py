"""One poller of new events for all event streams of a process.

A thousand streams that each polled the database would send a thousand queries per interval. One
thread polls for all of them, twenty times a second while a stream is open, and distributes events.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from orchestrator.db.database import Database
from orchestrator.runs import Position, history

_INTERVAL = 0.05  # seconds between two polls
_MAX_QUEUED = 1000  # events per stream; a slower one then reads from the database itself

Render = Callable[[Any], str]  # an event in the format of a stream; "" leaves it out

_log = logging.getLogger(__name__)


class FeedEvent(NamedTuple):
    """A rendered event for one stream."""

    position: Position
    type: str
    text: str


@dataclass(eq=False)
class Channel:
    """A run or a tenant whose events streams share."""

    key: UUID
    of_tenant: bool
    position: Position  # of the last event distributed; (seq, 0) for a run
    listeners: set["Listener"] = field(default_factory=set)

    def position_of(self, event: Any) -> Position:
        """The event's position among those of the run or the tenant."""
        return (event.tx, event.id) if self.of_tenant else (event.seq, 0)


@dataclass(eq=False)
class Listener:
    """One open stream: its channel and its queue of events."""

    channel: Channel
    render: Render
    behind: bool = False  # an event was dropped: the stream has to read from the database
    _events: queue.Queue[FeedEvent] = field(default_factory=queue.Queue)

    def next(self, timeout: float) -> FeedEvent | None:
        """The next event, None if there is none within `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def put(self, event: FeedEvent) -> None:
        """Queue an event, unless the queue is full or was since `behind` was reset."""
        if self._events.qsize() >= _MAX_QUEUED:
            self.behind = True
        if not self.behind:
            self._events.put(event)


class EventFeed:
    """Distributes new events to the open streams of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._channels: dict[UUID, Channel] = {}
        self._lock = threading.Lock()
        self._has_channels = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self, key: UUID, *, of_tenant: bool, position: Position, render: Render) -> Listener:
        """Open a stream of a run or a tenant.

        All events after `position` are queued, and possibly some before it. The caller reads past
        events *after* this call, so that none is missed between the two.
        """
        with self._lock:
            channel = self._channels.setdefault(key, Channel(key, of_tenant, position))
            listener = Listener(channel, render)
            channel.listeners.add(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
                self._thread.start()
            self._has_channels.set()
        return listener

    def leave(self, listener: Listener) -> None:
        """Close a stream; idempotent."""
        channel = listener.channel
        with self._lock:
            channel.listeners.discard(listener)
            if not channel.listeners and self._channels.get(channel.key) is channel:
                del self._channels[channel.key]
            if not self._channels:
                self._has_channels.clear()

    def _run(self) -> None:
        while True:
            self._has_channels.wait()
            start = time.monotonic()
            try:
                self._poll()
            except SQLAlchemyError as error:
                _log.warning("event feed cannot read", extra={"error": str(error)})
            except Exception:  # without this thread no stream gets events
                _log.exception("event feed failed")
            # At most half of the time is spent on polling; longer pauses would delay every stream.
            time.sleep(max(_INTERVAL, time.monotonic() - start))

    def _poll(self) -> None:
        with self._lock:
            channels = list(self._channels.values())
        runs = {each.key: each for each in channels if not each.of_tenant}
        if runs:
            positions = {key: channel.position[0] for key, channel in runs.items()}
            with self._database.transaction() as session:
                events = history.events_since(session, positions)
            for event in events:
                self._distribute(runs[event.run_id], event)
        for channel in channels:
            if channel.of_tenant:
                with self._database.transaction() as session:
                    new_events = history.events_of_tenant(
                        session, channel.key, after=channel.position, limit=500
                    )
                for each in new_events:
                    self._distribute(channel, each)

    def _distribute(self, channel: Channel, event: Any) -> None:
        channel.position = channel.position_of(event)
        with self._lock:
            listeners: Sequence[Listener] = list(channel.listeners)
        texts = {render: render(event) for render in {each.render for each in listeners}}
        for listener in listeners:
            listener.put(FeedEvent(channel.position, event.type, texts[listener.render]))
