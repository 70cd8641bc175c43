"""How an order to stop reaches a running handler.

In a prefork child, tasks run in the main thread and a signal raises an exception inside the
handler, but only there: what comes before it begins is kept until then. In a thread nothing can be
raised, so handlers there see only `context.cancelled()`.

There are two orders: one of the run, which was cancelled, and one of the worker, which ends and
hands the step back. A handler sees no difference; what becomes of its step is told by the order.

What tells a worker to end may come to its whole process group, or to all of its container: a child
leaves it to its parent, which lets steps end or hands them back.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from celery import signals

from orchestrator.sdk.signals import FailStep, RetryStep, StepCancelled, StepTimedOut

CANCEL, HAND_BACK = signal.SIGUSR1, signal.SIGUSR2  # the two orders, as a child hears them
_FOR_THE_WORKER = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class HandedBack(StepCancelled):
    """The handler let go because its worker ends: the step goes on elsewhere."""


class StopFlag:
    """Says that a handler should stop. To set an Event in a signal handler may wait for ever."""

    def __init__(self) -> None:
        self.handed_back = False  # because its worker ends
        self._asked = False

    def set(self) -> None:
        """Ask for it."""
        self._asked = True

    def is_set(self) -> bool:
        """Whether somebody has asked."""
        return self._asked


_stops: dict[str, StopFlag] = {}  # by task id, of the handlers that run in this process
_early: set[int] = set()  # the orders that came before the handler began
_armed = False  # whether the main thread is inside a handler


def request_stop(task_id: str, order: signal.Signals = CANCEL) -> bool:
    """Ask a handler that runs in a thread of this process to stop; False: none does (yet)."""
    event = _stops.get(task_id)
    if event is not None:
        event.handed_back |= order == HAND_BACK
        event.set()
    return event is not None


@signals.worker_process_init.connect
def _be_deaf(**_: Any) -> None:
    # Between two handlers: what a signal does to a process that has no plan for it is to kill it.
    signal.signal(HAND_BACK, signal.SIG_IGN)


@contextmanager
def protected() -> Iterator[None]:
    """Let nothing but an order end the attempt that is made in the block, and no order be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def spare(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:
            raise SystemExit(128 + number)  # a process that the handler has forked
        for event in list(_stops.values()):  # what the handler started may be hit, and break it
            event.handed_back = True

    _early.clear()
    for order in (CANCEL, HAND_BACK):
        signal.signal(order, lambda number, _: _early.add(number))
    before = [(number, signal.signal(number, spare)) for number in _FOR_THE_WORKER]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def interruptible(task_id: str, timeout: timedelta | None) -> Iterator[StopFlag]:
    """Let orders to stop, and the timeout, reach the handler that is called in the block.

    Gives the event that says so. Raises HandedBack, StepCancelled or StepTimedOut out of the block.
    """
    event = _stops[task_id] = StopFlag()
    in_main = threading.current_thread() is threading.main_thread()
    ticking = _raise_in_main if in_main else _tell_thread
    try:
        with ticking(event, timeout):
            yield event
    except (FailStep, RetryStep, StepTimedOut):
        raise  # its own words
    except BaseException as error:  # an order makes many a library fail in many a way
        if event.handed_back:
            raise HandedBack("its worker ends") from error
        raise
    finally:
        _stops.pop(task_id, None)


@contextmanager
def _raise_in_main(event: StopFlag, timeout: timedelta | None) -> Iterator[None]:
    global _armed  # noqa: PLW0603 - a process has one main thread

    def interrupt(number: int, _: FrameType | None) -> None:
        event.handed_back |= number == HAND_BACK
        event.set()
        if _armed:
            late = number == signal.SIGALRM
            raise (StepTimedOut("timeout") if late else StepCancelled("told to stop"))

    for number in (CANCEL, HAND_BACK, signal.SIGALRM):
        signal.signal(number, interrupt)
    signal.setitimer(signal.ITIMER_REAL, timeout.total_seconds() if timeout else 0)
    try:
        _armed = True
        for order in tuple(_early):
            interrupt(order, None)
        yield
    finally:
        _armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _tell_thread(event: StopFlag, timeout: timedelta | None) -> Iterator[None]:
    late = threading.Event()

    def expire() -> None:
        late.set()
        event.set()

    timer = threading.Timer(timeout.total_seconds(), expire) if timeout else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield
    except StepCancelled as order:
        if late.is_set():
            raise StepTimedOut("timeout") from order
        raise
    finally:
        if timer:
            timer.cancel()
