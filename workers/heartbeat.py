"""The heartbeat: the worker's parent process answers for what its children execute.

User code that holds the interpreter cannot starve it. The statement that renews the leases also
says which handlers should stop, so an order works without any message; a revoke only makes the
next beat come at once.
"""

import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
from celery import bootsteps
from celery.exceptions import Terminated, WorkerLostError
from celery.platforms import signals
from celery.worker import state
from celery.worker.request import Request
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.broker.client import STOP_SIGNAL
from orchestrator.engine import attempts
from orchestrator.engine.leases import StopOrder, renew_leases
from workers import interrupts
from workers.app import app, database, settings

# Seconds that an attempt may still run after somebody else answers for it: one that has just
# recorded its end needs a moment, one that did not stop when told to has had its time.
_MOVED_ON, _GONE = 5.0, 1.0

_log = logging.getLogger(__name__)


class StepRequest(Request):
    """A task that a child executes: watched from its start, and reported when its child dies."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        try:
            super().on_accepted(pid, time_accepted)
        finally:  # it runs, even if Redis cannot be told that its message came
            heartbeat.watch(self)

    def on_failure(self, exc_info: Any, **options: Any) -> None:
        super().on_failure(exc_info, **options)
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # billiard wraps it
        if isinstance(error, WorkerLostError | SystemExit | Terminated):
            heartbeat.report_lost(self.id, f"its process ended: {error}")

    def terminate(self, pool: Any, signal: Any = None) -> None:
        # Ours is a hint to look at the row, which decides; anything else is an operator's kill,
        # and a child that executes a step takes no softer one.
        if signals.signum(signal or "SIGTERM") == signals.signum(STOP_SIGNAL):
            heartbeat.beat_now()
        else:
            super().terminate(pool, signal="SIGKILL")

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        # Ctrl-C twice, or SIGQUIT. Celery would forget it, and then wait for its child.
        heartbeat.hurried = True


class Heartbeat:
    """Renews the leases of all that runs here, and carries out the orders that come back."""

    def __init__(self) -> None:
        self.worker = ""
        self._watched: dict[str, StepRequest] = {}
        self._renewed: set[str] = set()  # whose lease was renewed at least once
        self._missing: dict[str, float] = {}  # since when the row is not ours any more
        self._told: set[str] = set()  # who was told to stop
        self._lost: deque[tuple[str, str, bool]] = deque()  # whose end is still to be recorded
        self._wake, self._mourn = threading.Event(), threading.Event()
        self.hands_back = False  # the worker ends: what is lost from now on counts for nobody
        self.hurried = False  # whoever ends the worker does not wait for what runs

    def watch(self, request: StepRequest) -> None:
        """Answer for this task until its child is done with it; not for a copy of its message."""
        held = self._watched.get(request.id)
        if held is None or held not in state.active_requests:
            self._watched[request.id] = request

    def report_lost(self, task_id: str, reason: str) -> None:
        """The child that executed this task is dead: let the step go on elsewhere at once."""
        self._lost.append((task_id, reason, self.hands_back))
        self._mourn.set()

    @property
    def unrecorded(self) -> int:
        """How many ends of lost tasks are still to be recorded."""
        return len(self._lost)

    def active(self) -> dict[str, StepRequest]:
        """What is executed right now, by task id."""
        watched = list(self._watched.items())
        return {task_id: each for task_id, each in watched if each in state.active_requests}

    def beat_now(self) -> None:
        """Do not wait for the next beat."""
        self._wake.set()

    def start(self, worker: str) -> None:
        """Begin to beat, and beside it, since that may wait for a run's lock, to record losses."""
        self.worker = worker
        for name, wake, work in (
            ("heartbeat", self._wake, self._beat),
            ("losses", self._mourn, self._bury_lost),
        ):
            threading.Thread(target=_for_ever, name=name, args=(wake, work), daemon=True).start()

    def _bury_lost(self) -> float:
        """Record what was lost; gives the seconds until it looks again by itself."""
        while self._lost:
            task_id, reason, handed_back = self._lost[0]
            with database.transaction() as session:
                attempts.end_lost_attempt(
                    session, task_id, reason, worker=self.worker, handed_back=handed_back
                )
            self._lost.popleft()
        return math.inf

    def _beat(self) -> float:
        """Renew everything once; gives the seconds until the next process must be killed."""
        watched = set(self._watched)  # first: what starts from now on is not to be forgotten
        active = self.active()
        for task_id in watched - active.keys():
            self._forget(task_id)
        if not active:
            return math.inf
        with database.transaction() as session:
            orders = renew_leases(session, self.worker, sorted(active), lease=settings.lease)
        # Who has ended meanwhile is not told: its process may execute the next one.
        active = {task_id: each for task_id, each in self.active().items() if task_id in active}
        given = {task_id: self._order(task_id, orders) for task_id in active}
        for task_id, order in given.items():
            self._obey(active[task_id], order)
        waits = [order.kill_in for order in given.values() if order.kill_in is not None]
        return min((wait for wait in waits if wait > 0), default=math.inf)

    def _forget(self, task_id: str) -> None:
        self._watched.pop(task_id, None)
        self._renewed.discard(task_id)
        self._missing.pop(task_id, None)
        self._told.discard(task_id)

    def _order(self, task_id: str, orders: dict[str, StopOrder]) -> StopOrder:
        """The order of the row; an attempt that is no longer ours must go, but may end first."""
        if task_id in orders:
            self._renewed.add(task_id)
            self._missing.pop(task_id, None)
            return orders[task_id]
        since = time.monotonic() - self._missing.setdefault(task_id, time.monotonic())
        patience = _GONE if task_id in self._told else _MOVED_ON
        if task_id not in self._renewed:  # it may wait for its claim still
            patience += settings.lease.total_seconds()
        return StopOrder(stop=since > patience, kill_in=patience + _GONE - since)

    def _obey(self, request: StepRequest, order: StopOrder) -> None:
        if order.stop and request.id not in self._told and signal_child(request, interrupts.CANCEL):
            self._told.add(request.id)
        if order.kill_in is not None and order.kill_in <= 0:
            if run_in_thread(
                request
            ):  # it cannot be killed; its late writes are refused by the fence
                self.report_lost(request.id, "it did not stop in time")
            else:
                kill_child(request)


class HeartbeatStep(bootsteps.StartStopStep):
    """Runs the heartbeat beside the worker's pool, and does not stop it before the process ends.

    A worker that is told to end still waits for what its children execute, and must keep the
    leases of that good meanwhile.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Start beating."""
        heartbeat.start(str(parent.hostname))


def _for_ever(wake: threading.Event, work: Callable[[], float]) -> None:
    """Work at every heartbeat, when woken, and when it says so; Postgres may come and go."""
    pause = 0.0
    while True:
        wake.wait(pause)
        wake.clear()
        pause = settings.heartbeat.total_seconds()
        try:
            pause = min(pause, work())
        except SQLAlchemyError as error:
            _log.warning("heartbeat failed", extra={"error": str(error)})
        except Exception:  # a heart that stops for one error lets everything here run twice
            _log.exception("heartbeat failed")


def run_in_thread(request: StepRequest) -> bool:
    """Whether its handler runs in this very process."""
    return bool(request.worker_pid == os.getpid())


def signal_child(request: StepRequest, order: signal.Signals) -> bool:
    """Give its handler the order to stop; False: it has not begun yet."""
    if run_in_thread(request):
        return interrupts.request_stop(request.id, order)
    _log.info("signal", extra={"task": request.id, "signal": order.name})
    with suppress(ProcessLookupError):
        os.kill(request.worker_pid, order)
    return True


def kill_child(request: StepRequest) -> None:
    """End its process, and what its handler has started."""
    _log.info("kill", extra={"task": request.id})
    with suppress(psutil.Error):
        child = psutil.Process(request.worker_pid)
        for each in (*child.children(recursive=True), child):
            with suppress(psutil.NoSuchProcess):
                each.kill()


heartbeat = Heartbeat()
app.steps["worker"].add(HeartbeatStep)
