"""The heartbeat: the worker's parent process renews the leases of what its children execute.

User code that holds the interpreter cannot starve it. The statement that renews the leases also
returns the orders to stop, so they work without any message; a revoke only triggers a beat at once,
and is remembered nowhere: the claim refuses a cancelled step.
"""

import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
from celery import bootsteps
from celery.exceptions import Terminated, WorkerLostError
from celery.worker import state
from celery.worker.control import control_command
from celery.worker.request import Request
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from orchestrator.db.engine import is_transient
from orchestrator.engine import attempts
from orchestrator.engine.leases import StopOrder, renew_leases
from orchestrator.outputs import writer
from workers.app import app, database, output_folder, settings
from workers.isolation import dead_children, interrupts
from workers.isolation.dead_children import LastOutput
from workers.isolation.resource_usage import ChildMeter

# Seconds that an attempt may still run after its lease is gone: one that has just recorded its end
# needs a moment, one that was signalled has had its time.
_END_GRACE, _STOP_GRACE = 5.0, 1.0

_log = logging.getLogger(__name__)


class StepRequest(Request):
    """A task in a child: its lease is renewed from its start, and its loss is reported."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        try:
            super().on_accepted(pid, time_accepted)
        finally:  # it runs, even if acknowledging its message failed
            heartbeat.watch(self)

    def on_failure(self, exc_info: Any, **options: Any) -> None:
        super().on_failure(exc_info, **options)
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # billiard wraps it
        if isinstance(error, WorkerLostError | SystemExit | Terminated):
            reason = str(error).partition(" Job:")[0]  # which counts the steps of all tenants
            heartbeat.report_lost(self.id, f"its process ended: {reason}", self.worker_pid)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        # Ctrl-C twice, or SIGQUIT. Celery would drop the request, and still wait for its child.
        heartbeat.hurried = True


class Heartbeat:
    """Renews the leases of what runs here, and carries out the orders that come back."""

    def __init__(self) -> None:
        self.worker = ""
        self._pool: Any = None
        self._watched: dict[str, StepRequest] = {}
        self._renewed: set[str] = set()  # whose lease was renewed at least once
        self._missing: dict[str, float] = {}  # since when the row is no longer this attempt's
        self._signalled: set[str] = set()  # task ids of steps that were told to stop
        self._meters: dict[str, tuple[str, ChildMeter]] = {}  # of which attempt, by task id
        self._lost: deque[tuple[str, str, int | None, bool]] = deque()  # and if it is handed back
        self._wake, self._loss_reported = threading.Event(), threading.Event()
        self.hands_back = False  # the worker ends: a loss from now on is a hand-back
        self.hurried = False  # an operator ends the worker without waiting for steps

    def watch(self, request: StepRequest) -> None:
        """Renew its lease until its child is done; a copy of the message changes nothing."""
        known = self._watched.get(request.id)
        if known is None or known not in state.active_requests:
            self._watched[request.id] = request

    def report_lost(self, task_id: str, reason: str, pid: int | None = None) -> None:
        """The child that executed this task is dead: release the step at once."""
        self._lost.append((task_id, reason, pid, self.hands_back))
        self._loss_reported.set()

    @property
    def unrecorded(self) -> int:
        """How many ends of lost tasks are still to be recorded."""
        return len(self._lost)

    def active(self) -> dict[str, StepRequest]:
        """The requests that children execute now, by task id."""
        watched = list(self._watched.items())
        return {task_id: each for task_id, each in watched if each in state.active_requests}

    def beat_now(self) -> None:
        """Do not wait for the next beat."""
        self._wake.set()

    def start(self, worker: str, pool: Any) -> None:
        """Start a thread for the beats, and one for losses, which may wait for a run's lock."""
        self.worker, self._pool = worker, pool
        for name, wake, work in (
            ("heartbeat", self._wake, self._beat),
            ("losses", self._loss_reported, self._record_losses),
        ):
            threading.Thread(target=_repeat, name=name, args=(wake, work), daemon=True).start()

    def _record_losses(self) -> float:
        """Record all losses; returns the seconds until the next pass (none by itself)."""
        while self._lost:
            task_id, reason, pid, handed_back = self._lost[0]
            loss = partial(
                attempts.end_lost_attempt,
                task_id=task_id,
                reason=reason,
                worker=self.worker,
                handed_back=handed_back,
            )
            _record_loss(loss, _unread_output(pid, task_id) if pid else None)
            self._lost.popleft()
            if pid:
                output_folder.forget(pid)
                dead_children.end_orphans(self._children)
        output_folder.remove_dead(self._children())
        return math.inf

    def _children(self) -> set[int]:
        """The process ids of the pool."""
        return set(self._pool.info.get("processes", ())) if self._pool else set()

    def _beat(self) -> float:
        """Renew all leases once; returns the seconds until the next process must be killed."""
        watched = set(self._watched)  # before `active`: a task that starts in between is kept
        active = self.active()
        for task_id in watched - active.keys():
            self._forget(task_id)
        if not active:
            return math.inf
        with database.transaction() as session:
            renewed = renew_leases(
                session,
                self.worker,
                sorted(active),
                lease=settings.lease,
                usage=dict(self._usage(active)),
            )
        # Not those that have ended meanwhile: their processes may execute other steps.
        active = {task_id: each for task_id, each in self.active().items() if task_id in active}
        orders = {task_id: self._order(task_id, renewed) for task_id in active}
        for task_id, order in orders.items():
            self._measure(active[task_id], order.attempt)
            self._carry_out(active[task_id], order)
        waits = [order.kill_in for order in orders.values() if order.kill_in is not None]
        return min((wait for wait in waits if wait > 0), default=math.inf)

    def _usage(self, task_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the attempts of tasks have used so far, as far as it is known."""
        for task_id in task_ids:
            if known := self._meters.get(task_id):
                attempt, meter = known
                with suppress(psutil.Error):  # the child is gone
                    yield attempt, meter.read()

    def _measure(self, request: StepRequest, attempt: str | None) -> None:
        """Measure an attempt from its first beat on; a short one is not worth it."""
        known = self._meters.get(request.id)
        if attempt is None or run_in_thread(request) or (known and known[0] == attempt):
            return
        with suppress(psutil.Error):
            self._meters[request.id] = attempt, ChildMeter(request.worker_pid)

    def _forget(self, task_id: str) -> None:
        self._meters.pop(task_id, None)
        self._watched.pop(task_id, None)
        self._renewed.discard(task_id)
        self._missing.pop(task_id, None)
        self._signalled.discard(task_id)

    def _order(self, task_id: str, renewed: dict[str, StopOrder]) -> StopOrder:
        """The row's order; an attempt whose lease was not renewed is stopped after a grace."""
        if task_id in renewed:
            self._renewed.add(task_id)
            self._missing.pop(task_id, None)
            return renewed[task_id]
        since = time.monotonic() - self._missing.setdefault(task_id, time.monotonic())
        grace = _STOP_GRACE if task_id in self._signalled else _END_GRACE
        if task_id not in self._renewed:  # it may still be waiting for its claim
            grace += settings.lease.total_seconds()
        return StopOrder(stop=since > grace, kill_in=grace + _STOP_GRACE - since)

    def _carry_out(self, request: StepRequest, order: StopOrder) -> None:
        if (
            order.stop
            and request.id not in self._signalled
            and signal_child(request, interrupts.CANCEL)
        ):
            self._signalled.add(request.id)
        if order.kill_in is not None and order.kill_in <= 0:
            if run_in_thread(request):  # cannot be killed; the fence refuses its late writes
                self.report_lost(request.id, "it did not stop in time")
            else:
                kill_child(request)


class HeartbeatStep(bootsteps.StartStopStep):
    """Starts the heartbeat with the worker's pool; it runs until the process ends.

    A worker that shuts down still waits for its children, and renews their leases meanwhile.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Start the threads."""
        heartbeat.start(str(parent.hostname), parent.pool)


@control_command(name="revoke")
def revoke(_: Any, task_id: Sequence[str]) -> dict[str, str]:
    """Replaces Celery's command: the row decides, so a worker that executes one asks it now."""
    if not heartbeat.active().keys().isdisjoint(task_id):
        heartbeat.beat_now()
    return {"ok": "the row decides"}


def _repeat(wake: threading.Event, work: Callable[[], float]) -> None:
    """Call `work` at every heartbeat, when woken, and after the seconds that it returned."""
    pause = 0.0
    while True:
        wake.wait(pause)
        wake.clear()
        pause = settings.heartbeat.total_seconds()
        try:
            pause = min(pause, work())
        except SQLAlchemyError as error:
            _log.warning("heartbeat failed", extra={"error": str(error)})
        except Exception:  # without heartbeats all steps here would run twice
            _log.exception("heartbeat failed")


def _unread_output(pid: int, task_id: str) -> LastOutput | None:
    """The last output of a dead child, if it can be read."""
    try:
        return output_folder.unread_output(pid, task_id, settings.log_lines)
    except Exception:  # a step can write to the files
        _log.exception("output of a dead child not read")
        return None


def _record_loss(end: Callable[[Session], object], output: LastOutput | None) -> None:
    try:
        with database.transaction() as session:
            if output:
                writer.write_output(session, *output)
            end(session)
    except DBAPIError as error:
        if output is None or is_transient(error):
            raise
        _log.exception("output of a dead child not written")
        _record_loss(end, None)


def run_in_thread(request: StepRequest) -> bool:
    """Whether its handler runs in a thread of this process."""
    return bool(request.worker_pid == os.getpid())


def signal_child(request: StepRequest, order: signal.Signals) -> bool:
    """Send its handler an order to stop; False when it has not begun yet."""
    if run_in_thread(request):
        return interrupts.request_stop(request.id, order)
    _log.info("child signalled", extra={"task": request.id, "signal": order.name})
    with suppress(ProcessLookupError):
        os.kill(request.worker_pid, order)
    return True


def kill_child(request: StepRequest) -> None:
    """Kill its process and every process that its handler started."""
    _log.info("child killed", extra={"task": request.id})
    with suppress(psutil.Error):
        child = psutil.Process(request.worker_pid)
        for each in (*child.children(recursive=True), child):
            with suppress(psutil.NoSuchProcess):
                each.kill()


heartbeat = Heartbeat()
app.steps["worker"].add(HeartbeatStep)
