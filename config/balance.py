"""Connections of a port are spread evenly over the processes that accept them.

The kernel wakes all of them for each connection, and mostly the same one is first. A client stays
with its process as long as it keeps its connection, however busy that one is.
"""

import mmap
import time
from collections.abc import Collection
from typing import Any

from gevent.server import StreamServer

_WAIT = 0.005  # seconds that a connection is left to the others


class Balance:
    """How many connections each process has, in memory that all of them share."""

    def __init__(self, processes: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * processes)).cast("i")
        self._place = 0  # of this process

    def free_place(self, used: Collection[int]) -> int:
        """A place that no process has."""
        return next((place for place in range(len(self._counts)) if place not in used), 0)

    def enter(self, place: int) -> None:
        """This process has the place, and no connection yet."""
        self._place = place
        self.update(0)

    def update(self, count: int) -> None:
        """This process has so many connections."""
        self._counts[self._place] = count

    def has_more(self) -> bool:
        """Whether this process has more connections than another one."""
        return self._counts[self._place] > min(self._counts)


class BalancedServer(StreamServer):  # type: ignore[misc]
    """Leaves connections to processes that have fewer, for a moment: they may be busy, or dead."""

    balance = Balance(1)
    _takes_until = 0.0  # one that is left after the moment

    def _do_read(self) -> Any:
        now = time.monotonic()
        if now < self._takes_until or not self.balance.has_more():
            self._takes_until = 0.0
            return super()._do_read()
        self._takes_until = now + 2 * _WAIT
        self.stop_accepting()
        self._timer = self.loop.timer(_WAIT)
        return self._timer.start(self._start_accepting_if_started)
