"""Tells the worker's loop that a thread of its pool is free.

Celery's loop takes no message while all threads are busy, and sleeps: of a child it hears when that
has done its task, of a thread it heard nothing, and looked again a second later.
"""

import os
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.concurrency.thread import TaskPool


class WakeStep(bootsteps.StartStopStep):
    """Wakes the loop through a pipe, of a worker that executes its steps in threads."""

    requires = ("celery.worker.components:Pool",)

    def include_if(self, parent: Any) -> bool:
        """Whether there is anything to tell."""
        return issubclass(parent.pool_cls, TaskPool)

    def start(self, parent: Any) -> None:
        """Begin to tell."""
        self._hears, self._tells = os.pipe()
        for end in (self._hears, self._tells):
            os.set_blocking(end, False)
        execute = parent.pool.on_apply

        def execute_and_tell(*args: Any, **options: Any) -> Any:
            result = execute(*args, **options)
            result.f.add_done_callback(self._tell)
            return result

        parent.pool.on_apply = execute_and_tell

    def register_with_event_loop(self, parent: Any, hub: Any) -> None:
        """Let the loop listen, with each connection anew."""
        hub.add_reader(self._hears, self._hear)

    def _tell(self, _: Any) -> None:
        with suppress(BlockingIOError):  # it has been told more than it has heard
            os.write(self._tells, b".")

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._hears, 4096)
