"""One reader of new events for all the streams of this process.

A thousand streams that each asked the database would be a thousand queries a moment. So one loop
asks for everybody, some twenty times a second while anybody listens, and hands each event on.
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
from orchestrator.errors import Unavailable
from orchestrator.runs import Position, history

_PAUSE = 0.05  # seconds between two looks
_MOST_KEPT = 1000  # events a slow stream may be behind before it has to read for itself

Render = Callable[[Any], str]  # an event as one kind of stream writes it; "" leaves it out

_log = logging.getLogger(__name__)


class FeedEvent(NamedTuple):
    """An event on its way to one stream."""

    position: Position
    type: str
    text: str


@dataclass(eq=False)
class Channel:
    """A run, or a tenant's whole, that streams follow together."""

    key: UUID
    of_tenant: bool
    position: Position  # of the last event that was handed on; of a run's it is (seq, 0)
    listeners: set["Listener"] = field(default_factory=set)


@dataclass(eq=False)
class Listener:
    """One open stream: what it follows, and what has come in for it."""

    channel: Channel
    render: Render
    behind: bool = False  # something was thrown away: it has to read for itself
    _arrived: queue.Queue[FeedEvent] = field(default_factory=queue.Queue)

    def next(self, timeout: float) -> FeedEvent | None:
        """What came in next, or None when nothing does in time (seconds)."""
        try:
            return self._arrived.get(timeout=timeout)
        except queue.Empty:
            return None

    def put(self, arrival: FeedEvent) -> None:
        """Keep this for the stream, unless it has fallen too far behind."""
        if self._arrived.qsize() >= _MOST_KEPT:
            self.behind = True
        if not self.behind:
            self._arrived.put(arrival)

    def catch_up(self) -> None:
        """The stream reads for itself now: what comes from here on is of use to it again."""
        self.behind = False


class EventFeed:
    """Hands new events to the streams that are open in this process."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._channels: dict[UUID, Channel] = {}
        self._open = 0
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self, key: UUID, *, of_tenant: bool, position: Position, render: Render) -> Listener:
        """Follow a run or a tenant. Raises Unavailable when too many streams are open already.

        Everything after `position` comes in, and perhaps something before it. The caller reads
        what it has not seen *after* this call, so that nothing falls between the two.
        """
        with self._lock:
            if self._open >= self._most:
                raise Unavailable(f"{self._most} streams are open already; try again later")
            channel = self._channels.setdefault(key, Channel(key, of_tenant, position))
            listener = Listener(channel, render)
            channel.listeners.add(listener)
            self._open += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
                self._thread.start()
            self._wanted.set()
        return listener

    def leave(self, listener: Listener) -> None:
        """Follow no longer; twice is harmless."""
        channel = listener.channel
        with self._lock:
            if listener in channel.listeners:
                channel.listeners.discard(listener)
                self._open -= 1
            if not channel.listeners and self._channels.get(channel.key) is channel:
                del self._channels[channel.key]
            if not self._channels:
                self._wanted.clear()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            begun = time.monotonic()
            try:
                self._look()
            except SQLAlchemyError as error:
                _log.warning("feed cannot read", extra={"error": str(error)})
            except Exception:  # a feed that ends for one error leaves every stream silent
                _log.exception("feed failed")
            # After a long look an equally long pause; a longer one would be felt by every reader.
            time.sleep(max(_PAUSE, time.monotonic() - begun))

    def _look(self) -> None:
        with self._lock:
            channels = list(self._channels.values())
        runs = {each.key: each for each in channels if not each.of_tenant}
        if runs:
            positions = {key: channel.position[0] for key, channel in runs.items()}
            with self._database.transaction() as session:
                found = history.events_since(session, positions)
            for event in found:
                self._hand_on(runs[event.run_id], (event.seq, 0), event)
        for channel in channels:
            if channel.of_tenant:
                with self._database.transaction() as session:
                    new = history.events_of_tenant(
                        session, channel.key, after=channel.position, limit=500
                    )
                for each in new:
                    self._hand_on(channel, (each.tx, each.id), each)

    def _hand_on(self, channel: Channel, position: Position, event: Any) -> None:
        channel.position = position
        with self._lock:
            listeners: Sequence[Listener] = list(channel.listeners)
        written = {render: render(event) for render in {each.render for each in listeners}}
        for listener in listeners:
            listener.put(FeedEvent(position, event.type, written[listener.render]))
