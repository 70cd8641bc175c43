"""Steps that a slot executes one after the other in place, without a message for each.

A chain of short steps costs one round trip a step. A long step, a worker that drains and a process
with something left behind go on through the broker, so that priorities and other workers are not
kept waiting for longer than a streak.
"""

import mmap
import time

from workers.app import settings
from workers.isolation import host

_stopped = mmap.mmap(-1, 1)  # shared with the children of a pool, which are forked later


def set_stopped(stopped: bool) -> None:
    """Allow no streak to go on, as the worker takes nothing new."""
    _stopped[0] = stopped


class Streak:
    """The steps of one Celery task."""

    def __init__(self) -> None:
        self._until = time.monotonic() + settings.continue_.total_seconds()

    def goes_on(self) -> bool:
        """Whether the next step may be claimed in place.

        Not where children are replaced after a number of tasks, which counts Celery's.
        """
        return (
            time.monotonic() < self._until
            and not settings.max_tasks_per_child
            and not _stopped[0]
            and host.current.restore()
        )
