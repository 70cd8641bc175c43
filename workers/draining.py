"""Shutdown and draining: take no new steps, let running ones end in time, hand back the rest.

A worker ends on a signal, or because it no longer consumes. An operator
may also drain it without ending it: it stops consuming, and the same deadlines apply.
"""

import logging
import math
import os
import threading
import time
from contextlib import suppress
from typing import Any

import psutil
from celery import bootsteps, signals
from celery.worker import state

from workers import heartbeat as lease
from workers import streak
from workers.app import app, settings
from workers.heartbeat import StepRequest, heartbeat
from workers.isolation.interrupts import HAND_BACK

STOP_GRACE = 2.0  # seconds from the order to hand back until the handler's process is killed
EXIT_GRACE = 3.0  # seconds more until a process that should have ended is ended by force
RECORD_GRACE = 8.0  # seconds more while a loss is still to be recorded, as Postgres is away

_INTERVAL = 0.2  # seconds
_RETRY_INTERVAL = 1.0  # seconds until the main thread, which may be reconnecting, is asked again
_REASON = "its worker ends"

_log = logging.getLogger(__name__)


class Draining:
    """The deadlines of what this worker executes, and the thread that enforces them."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._queues: tuple[str, ...] = ()  # those it consumes unless it drains
        self._drain_by: float | None = None  # end of an operator's drain, monotonic
        self._exit_by: float | None = None  # end of the grace of an exit, monotonic
        self._end_requested_at = 0.0
        self._busy_at = 0.0  # when a step was last executing
        self._status = 0
        self._exiting = False
        self._signalled: dict[str, float] = {}  # when each task was sent HAND_BACK
        self._abandoned: dict[str, StepRequest] = {}  # did not stop in time
        self._deselected = False  # whether this class cancelled the queues
        self._requested_at = 0.0

    @property
    def deadline(self) -> float | None:
        """When what still runs is handed back; None while the worker neither drains nor ends."""
        return min(
            (each for each in (self._drain_by, self._exit_by) if each is not None), default=None
        )

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that it consumes unless it drains."""
        return self._queues

    def start(self, worker: Any) -> None:
        """Remember the worker and start the thread."""
        self._worker = worker
        self._queues = tuple(sorted(app.amqp.queues.consume_from))
        threading.Thread(target=self._run, name="draining", daemon=True).start()

    def end(self, within: float, status: int = 0) -> None:
        """End the process; steps have `within` seconds, which a later call can only shorten."""
        now = time.monotonic()
        heartbeat.hands_back = True
        if self._exit_by is None:
            self._status, self._end_requested_at = status, now
            if status:
                state.should_stop = status  # makes Celery's main thread end with this status
        self._exit_by = min(now + within, self._exit_by or math.inf)
        streak.set_stopped(True)

    def end_gracefully(self, **_: Any) -> None:
        """End the process; steps have the `drain_grace` of the settings."""
        self.end(settings.drain_grace.total_seconds())

    def request_drain(self, within: float | None) -> None:
        """Drain within so many seconds, as an operator requested; None: do not drain."""
        self._drain_by = None if within is None else time.monotonic() + within

    def takes_nothing_new(self) -> bool:
        """Whether it takes no new steps: it ends, or consumes no queue any more."""
        return self._exit_by is not None or (self.deadline is not None and not self._consumed())

    def running(self) -> int:
        """How many tasks it has received and not finished, plus losses not yet recorded."""
        abandoned = sum(each in state.reserved_requests for each in list(self._abandoned.values()))
        return len(state.reserved_requests) - abandoned + heartbeat.unrecorded

    def consumes_all(self) -> bool:
        """Whether it consumes all of its queues."""
        return self._consumed() == set(self._queues)

    def await_recording(self, **_: Any) -> None:
        """Wait until the last losses are recorded, at most RECORD_GRACE; then the leases expire."""
        until = time.monotonic() + RECORD_GRACE
        while heartbeat.unrecorded and not self._exiting and time.monotonic() < until:
            time.sleep(_INTERVAL)

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL)
            try:
                self._tick()
            except Exception:  # the worker must still end
                _log.exception("draining failed")

    def _tick(self) -> None:
        if heartbeat.hurried:
            self.end(0)
        deadline = self.deadline
        overdue = float("-inf") if deadline is None else time.monotonic() - deadline
        if overdue < 0 and self.running():
            self._busy_at = time.monotonic()
        if self._exit_by is not None and self._is_overdue():
            self._exit()
        heartbeat.hands_back = self._exit_by is not None or overdue >= 0
        streak.set_stopped(deadline is not None)
        if self._exit_by is None:
            self._set_consuming(consuming=deadline is None)
        if overdue >= 0:
            self._hand_back()
        else:
            self._signalled.clear()
            self._abandoned.clear()

    def _is_overdue(self) -> bool:
        """Whether the process should have ended by now: nothing runs that it could wait for."""
        grace = STOP_GRACE + EXIT_GRACE + (RECORD_GRACE if heartbeat.unrecorded else 0)
        return time.monotonic() - max(self._end_requested_at, self._busy_at) >= grace

    def _consumed(self) -> set[str]:
        consumer = self._worker.consumer.task_consumer
        if consumer is None:
            return set()
        return {name for name in self._queues if consumer.consuming_from(name)}

    def _set_consuming(self, *, consuming: bool) -> None:
        """Make the main thread consume all of its queues, or none."""
        if consuming and not self._deselected:
            return
        done = self.consumes_all() if consuming else not self._consumed()
        self._deselected = not (consuming and done)
        if not consuming:
            app.amqp.queues.deselect(self._queues)  # also after a reconnect
        if not done and time.monotonic() - self._requested_at >= _RETRY_INTERVAL:
            self._requested_at = time.monotonic()
            consumer = self._worker.consumer
            switch = consumer.add_task_queue if consuming else consumer.cancel_task_queue
            for name in self._queues:
                consumer.call_soon(switch, name)

    def _hand_back(self) -> None:
        for task_id, request in heartbeat.active().items():
            now = time.monotonic()
            if task_id not in self._signalled:
                if lease.signal_child(request, HAND_BACK):
                    self._signalled[task_id] = now
            elif now - self._signalled[task_id] >= STOP_GRACE and task_id not in self._abandoned:
                self._abandon(request)

    def _abandon(self, request: StepRequest) -> None:
        self._abandoned[request.id] = request
        if not lease.run_in_thread(request):  # a thread ends with the process only
            lease.kill_child(request)
        heartbeat.report_lost(request.id, f"{_REASON}, and it did not stop in time")

    def _exit(self) -> None:
        """Exit and kill all child processes, even if the main thread is blocked."""
        self._exiting = True
        try:
            announcement = threading.Thread(target=self._announce_exit, daemon=True)
            announcement.start()
            announcement.join(1)
            for each in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    each.kill()
        finally:
            os._exit(self._status)

    def _announce_exit(self) -> None:
        _log.warning("worker exits by force", extra={"running": sorted(heartbeat.active())})
        signals.worker_shutdown.send(sender=self._worker)


class DrainStep(bootsteps.StartStopStep):
    """Runs `Draining` for the life of the worker."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Start the thread; connect signals, too, since `close` waits for a blocked main thread."""
        signals.worker_shutting_down.connect(draining.end_gracefully)
        signals.worker_shutdown.connect(draining.await_recording)
        draining.start(parent)

    def close(self, parent: Any) -> None:
        """Celery ends the worker, for whatever reason."""
        draining.end_gracefully()


draining = Draining()
app.steps["worker"].add(DrainStep)
