"""A worker that ends takes nothing new, lets what runs end in time, and hands back the rest.

It ends because it was told to, by a signal or by Celery's remote control, or because it is deaf. An
operator may also drain it and leave it alive: then it stops consuming, and the same clock runs.
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
from workers.app import app, settings
from workers.heartbeat import StepRequest, heartbeat
from workers.interrupts import HAND_BACK

CLEAN_UP = 2.0  # seconds from the order to hand back until the handler's process is killed
LEAVE = 3.0  # more, until a process that should end is ended by force
MAX_DRAIN = 8.0  # more, while Postgres is away and an end is still to be recorded

_TICK = 0.2
_RETRY = 1.0  # seconds until the main thread, which may be busy connecting, is asked again
_REASON = "its worker ends"

_log = logging.getLogger(__name__)


class Draining:
    """Knows until when what runs here may run, and sees to it."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._queues: tuple[str, ...] = ()  # what it consumes when nobody tells it otherwise
        self._asked: float | None = None  # when an operator's time for what runs is over
        self._ends: float | None = None  # the same when the process is to end afterwards
        self._end_began = 0.0
        self._was_busy = 0.0  # when something ran here last
        self._status = 0
        self._leaving = False
        self._told: dict[str, float] = {}  # when each task was told to hand back
        self._given_up: dict[str, StepRequest] = {}  # killed since, or, in threads, left alone
        self._off = False  # whether the queues were cancelled from here
        self._switched = 0.0

    @property
    def by(self) -> float | None:
        """When what still runs is handed back; None: it may run for ever."""
        return min((each for each in (self._asked, self._ends) if each is not None), default=None)

    @property
    def queues(self) -> tuple[str, ...]:
        """What this worker is there for."""
        return self._queues

    def start(self, worker: Any) -> None:
        """Begin to look after this worker."""
        self._worker = worker
        self._queues = tuple(sorted(app.amqp.queues.consume_from))
        threading.Thread(target=self._run, name="draining", daemon=True).start()

    def end(self, within: float, status: int = 0) -> None:
        """What runs gets so many seconds, and then the process ends; a later call may hurry it."""
        now = time.monotonic()
        heartbeat.hands_back = True
        if self._ends is None:
            self._status, self._end_began = status, now
            if status:
                state.should_stop = status  # Celery's main thread does not know yet
        self._ends = min(now + within, self._ends or math.inf)

    def end_as_told(self, **_: Any) -> None:
        """What runs gets the grace of the settings."""
        self.end(settings.drain_grace.total_seconds())

    def ask(self, within: float | None) -> None:
        """An operator's wish, told again and again: drain in so many seconds, or do not."""
        self._asked = None if within is None else time.monotonic() + within

    def is_empty_handed(self) -> bool:
        """Whether it takes nothing new: it consumes no queue of steps."""
        return self._ends is not None or (self.by is not None and not self._consumed())

    def running(self) -> int:
        """How many tasks are on their way here, and losses that are not recorded yet."""
        left = sum(each in state.reserved_requests for each in list(self._given_up.values()))
        return len(state.reserved_requests) - left + heartbeat.unrecorded

    def consumes_all(self) -> bool:
        """Whether it consumes every queue that it is there for."""
        return self._consumed() == set(self._queues)

    def record_rest(self, **_: Any) -> None:
        """Wait until the last losses are recorded, or somebody else has to do it."""
        until = time.monotonic() + MAX_DRAIN
        while heartbeat.unrecorded and not self._leaving and time.monotonic() < until:
            time.sleep(_TICK)

    def _run(self) -> None:
        while True:
            time.sleep(_TICK)
            try:
                self._look()
            except Exception:  # the worker must end all the same
                _log.exception("draining failed")

    def _look(self) -> None:
        if heartbeat.hurried:
            self.end(0)
        by = self.by
        over = float("-inf") if by is None else time.monotonic() - by
        if over < 0 and self.running():
            self._was_busy = time.monotonic()
        if self._ends is not None and self._overstays():
            self._leave()
        heartbeat.hands_back = self._ends is not None or over >= 0
        if self._ends is None:
            self._switch(taking=by is None)
        if over >= 0:
            self._hand_back()
        else:
            self._told.clear()
            self._given_up.clear()

    def _overstays(self) -> bool:
        """Whether the process should have ended by itself: it had nothing more to wait for."""
        patience = CLEAN_UP + LEAVE + (MAX_DRAIN if heartbeat.unrecorded else 0)
        return time.monotonic() - max(self._end_began, self._was_busy) >= patience

    def _consumed(self) -> set[str]:
        consumer = self._worker.consumer.task_consumer
        if consumer is None:
            return set()
        return {name for name in self._queues if consumer.consuming_from(name)}

    def _switch(self, *, taking: bool) -> None:
        """Let the main thread consume all of the queues, or none."""
        if taking and not self._off:
            return
        done = self.consumes_all() if taking else not self._consumed()
        self._off = not (taking and done)
        if not taking:
            app.amqp.queues.deselect(self._queues)  # what a new connection would begin with
        if not done and time.monotonic() - self._switched >= _RETRY:
            self._switched = time.monotonic()
            consumer = self._worker.consumer
            switch = consumer.add_task_queue if taking else consumer.cancel_task_queue
            for name in self._queues:
                consumer.call_soon(switch, name)

    def _hand_back(self) -> None:
        for task_id, request in heartbeat.active().items():
            now = time.monotonic()
            if task_id not in self._told:
                if lease.signal_child(request, HAND_BACK):
                    self._told[task_id] = now
            elif now - self._told[task_id] >= CLEAN_UP and task_id not in self._given_up:
                self._give_up(request)

    def _give_up(self, request: StepRequest) -> None:
        self._given_up[request.id] = request
        if not lease.run_in_thread(request):  # a thread cannot be killed: it goes with the process
            lease.kill_child(request)
        heartbeat.report_lost(request.id, f"{_REASON}, and it did not stop in time")

    def _leave(self) -> None:
        """End the process, whatever its main thread waits for, and all that it has started."""
        self._leaving = True
        try:
            goodbye = threading.Thread(target=self._say_goodbye, daemon=True)
            goodbye.start()
            goodbye.join(1)
            for each in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    each.kill()
        finally:
            os._exit(self._status)

    def _say_goodbye(self) -> None:
        _log.warning("ends by force", extra={"running": sorted(heartbeat.active())})
        signals.worker_shutdown.send(sender=self._worker)


class DrainStep(bootsteps.StartStopStep):
    """Looks after the end of the worker, from its beginning on."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Start looking; at signals, too: the main thread may wait for what never comes."""
        signals.worker_shutting_down.connect(draining.end_as_told)
        signals.worker_shutdown.connect(draining.record_rest)
        draining.start(parent)

    def close(self, parent: Any) -> None:
        """The worker has begun to end, whoever told it to: the clock of its steps runs."""
        draining.end_as_told()


draining = Draining()
app.steps["worker"].add(DrainStep)
