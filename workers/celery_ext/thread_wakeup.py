"""Wakes the worker's event loop when a thread of its pool is free.

Celery's loop takes no message while all slots are busy, and sleeps. A child process that finishes
makes a pipe readable; a thread signals nothing, and the loop polled again a second later.
"""

import os
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.concurrency.thread import TaskPool


class WakeStep(bootsteps.StartStopStep):
    """Wakes the loop of a worker with a thread pool through a pipe."""

    requires = ("celery.worker.components:Pool",)

    def include_if(self, parent: Any) -> bool:
        """Only for a thread pool."""
        return issubclass(parent.pool_cls, TaskPool)

    def start(self, parent: Any) -> None:
        """Write to the pipe whenever a task has ended."""
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        execute = parent.pool.on_apply

        def execute_and_notify(*args: Any, **options: Any) -> Any:
            result = execute(*args, **options)
            result.f.add_done_callback(self._notify)
            return result

        parent.pool.on_apply = execute_and_notify

    def register_with_event_loop(self, parent: Any, hub: Any) -> None:
        """Register the pipe; Celery calls this after every reconnect."""
        hub.add_reader(self._read_end, self._drain)

    def _notify(self, _: Any) -> None:
        with suppress(BlockingIOError):  # the pipe is full: the loop is woken anyway
            os.write(self._write_end, b".")

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read_end, 4096)
