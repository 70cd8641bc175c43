"""Turns: how many requests are in work at once, who is next, and who is refused.

More requests in work than the interpreter and the database can do make all of them slow and none
faster. So a request of a burst waits for its turn. A queue that stays is no burst: whoever comes
later, until there was no such queue for some seconds, waits only if nothing else of its key is in
work or waits; the others are refused at once.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from werkzeug.exceptions import TooManyRequests

from api.capacity.shares import Party, Shares
from orchestrator.errors import Unavailable

_MIN_SIZE = 4  # requests in work: two of one key, one of its tenant's others, one of others
_PLACES = 128  # requests in the queue
_QUIET = 2  # requests in work that do not slow each other
_MAX_SLOWDOWN = 2  # of requests by each other; above, fewer are in work at once
_BURST = 0.3  # of the timeout, with a queue: longer is no burst,
_MANY = 4  # nor is it that each request takes long
_BRIEF = 0.05  # seconds in the queue of an overload with many keys
_CALM = 5.0  # seconds without a queue that stays
_RETRY_AFTER = 1  # second


@dataclass(eq=False)
class _Waiter:
    party: Party
    granted: threading.Event = field(default_factory=threading.Event)


class Turns:
    """At most `size` turns at once, fewer while requests slow each other down.

    What they compete for, the interpreter or Postgres, does not matter. A turn goes to the tenant
    with the fewest, and among its keys in rotation.
    """

    def __init__(self, size: int, timeout: float) -> None:
        self._min_size, self._max_size, self._timeout = min(size, _MIN_SIZE), size, timeout
        self._working = Shares(size)
        self._places = Shares(_PLACES)
        self._queue: dict[Party, deque[_Waiter]] = {}
        self._resuming: deque[_Waiter] = deque()
        self._lock = threading.Lock()
        self._empty_at = self._overloaded_until = 0.0
        # Seconds of work of a request, on average: of the last ones, and of those in quiet moments.
        self._duration = self._quiet_duration = 0.0

    def begin(self, party: Party) -> bool:
        """Wait for a turn; returns whether it is a quiet moment.

        Raises TooManyRequests for a party with too many requests in the queue, or for too long,
        Unavailable for one that waited too long with a single request.
        """
        with self._lock:
            if party not in self._queue and self._working.has_room(party):
                self._working.take(party)
                return self._working.used <= _QUIET and time.monotonic() > self._overloaded_until
            timeout = self._patience(party)
            if not timeout:
                # Goes on while more than one request too many comes in the time of one.
                longer = self._overloaded_until + self._duration
                self._overloaded_until = min(longer, time.monotonic() + _CALM)
                raise refusal("requests")
            waiter = self._enqueue(party)
        if not waiter.granted.wait(timeout):
            self._give_up(waiter)
        return False

    def resume(self, party: Party) -> None:
        """Go on after a pause, before those in the queue."""
        with self._lock:
            if self._working.used < self._working.size:
                self._working.take(party)
                return
            waiter = _Waiter(party)
            self._resuming.append(waiter)
        waiter.granted.wait()

    def end(self, party: Party) -> None:
        """Give the turn to the next one."""
        with self._lock:
            self._working.give_back(party)
            self._grant()

    def move(self, party: Party, owner: Party) -> None:
        """The turn is another party's, also beyond its share: its next requests will wait."""
        with self._lock:
            self._working.give_back(party)
            self._working.take(owner)

    def measure(self, seconds: float, *, quiet: bool) -> None:
        """Adapt the number of turns to how long a request was in work."""
        with self._lock:
            self._duration += (seconds - self._duration) / 20
            if quiet:
                self._quiet_duration += (seconds - self._quiet_duration) / 20
            if self._duration > _MAX_SLOWDOWN * self._quiet_duration:
                self._working.size = max(self._min_size, self._working.size * 0.98)
            else:
                self._working.size = min(self._max_size, self._working.size + 0.05)
                self._grant()

    def _patience(self, party: Party) -> float:
        """How many seconds a new request may wait; 0: it may not."""
        now = time.monotonic()
        if not self._queue:
            self._empty_at = now
        elif now - self._empty_at > max(_BURST * self._timeout, _MANY * self._duration):
            self._overloaded_until = now + _CALM
        if now > self._overloaded_until:
            return self._timeout if self._places.has_room(party) else 0
        if self._working.of_key(party) or self._places.of_key(party):
            return 0
        return self._timeout if len(self._queue) < self._working.size else _BRIEF

    def _enqueue(self, party: Party) -> _Waiter:
        waiter = _Waiter(party)
        self._queue.setdefault(party, deque()).append(waiter)
        self._places.take(party)
        return waiter

    def _give_up(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.granted.is_set():
                return
            self._overloaded_until = time.monotonic() + _CALM
            is_alone = self._places.of_tenant(waiter.party) == 1
            self._queue[waiter.party].remove(waiter)
            self._leave_queue(waiter.party)
        if not is_alone:  # the tenant waits for itself
            raise refusal("requests")
        raise Unavailable("more requests are waiting than can be done in time; try again")

    def _leave_queue(self, party: Party) -> None:
        """Put the party behind the others, if it has more requests in the queue."""
        self._places.give_back(party)
        waiters = self._queue.pop(party)
        if waiters:
            self._queue[party] = waiters

    def _grant(self) -> None:
        while self._working.used < self._working.size and (waiter := self._next()):
            self._working.take(waiter.party)
            waiter.granted.set()

    def _next(self) -> _Waiter | None:
        if self._resuming:
            return self._resuming.popleft()
        ready = [party for party in self._queue if self._working.has_room(party)]
        if not ready:
            return None
        party = min(ready, key=self._working.of_tenant)
        waiter = self._queue[party].popleft()
        self._leave_queue(party)
        return waiter


def refusal(things: str) -> TooManyRequests:
    """The error for a party that has more things at once than its share."""
    detail = f"this key or address has too many {things} open at once; come again in"
    return TooManyRequests(f"{detail} {_RETRY_AFTER} s", retry_after=_RETRY_AFTER)
