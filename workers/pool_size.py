"""Keeps the pool at its size: without children a worker takes messages, and executes none.

A pool that somebody has shrunk grows again. A worker whose children stay away, e.g. as the host
cannot fork, ends, so that its supervisor starts it again.
"""

import logging
import threading
import time
from typing import Any

from celery import bootsteps

from workers.app import app, settings
from workers.draining import DrainStep, draining

EXIT_GRACE = 5.0  # seconds that its steps have before the worker exits
_INTERVAL = 1.0  # seconds
_REPLACEMENT = 3.0  # seconds in which a child that has ended is replaced

_log = logging.getLogger(__name__)


class PoolSize:
    """Compares the pool with the worker's concurrency; a pool of threads is always complete."""

    def __init__(self) -> None:
        self.missing = 0  # child processes that are not replaced in time
        self._worker: Any = None
        self._complete_at = 0.0  # monotonic

    def start(self, worker: Any) -> None:
        """Start the thread."""
        self._worker, self._complete_at = worker, time.monotonic()
        threading.Thread(target=self._run, name="pool-size", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL)
            try:
                self._tick()
            except Exception:
                _log.exception("pool size unknown")

    def _tick(self) -> None:
        now = time.monotonic()
        children = self._worker.pool.info.get("processes")
        missing = 0 if children is None else max(0, self._worker.concurrency - len(children))
        if not missing or draining.deadline is not None:
            self.missing, self._complete_at = 0, now
            return
        self._worker.consumer.call_soon(self._grow)
        late = now - self._complete_at
        self.missing = missing if late > _REPLACEMENT else 0
        if late > settings.deaf_after.total_seconds():
            _log.error("child processes missing, restarting", extra={"missing": missing})
            draining.end(EXIT_GRACE, status=1)

    def _grow(self) -> None:
        pool, consumer = self._worker.pool, self._worker.consumer
        lost = self._worker.concurrency - pool.num_processes
        if lost > 0:
            _log.warning("pool grows to its size", extra={"processes": lost})
            pool.grow(lost)
            consumer._update_prefetch_count(lost)
        pool.maintain_pool()


class PoolSizeStep(bootsteps.StartStopStep):
    """Watches the pool for as long as the process lives."""

    requires = ("celery.worker.components:Pool", DrainStep)

    def start(self, parent: Any) -> None:
        """Start the thread."""
        pool_size.start(parent)


pool_size = PoolSize()
app.steps["worker"].add(PoolSizeStep)
