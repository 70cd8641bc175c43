"""How an order to stop reaches a running handler.

In a prefork child, tasks run in the main thread and a signal raises an exception inside the
handler, but only there: outside of the handler the signal just leaves a mark. In a thread nothing
can be raised, so handlers there see only `context.cancelled()`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

from orchestrator.handlers import StepCancelled, StepTimedOut

_stops: dict[str, threading.Event] = {}  # by task id, of the handlers that run in this process
_armed = False  # whether the main thread is inside a handler


def stop(task_id: str) -> bool:
    """Ask a handler that runs in a thread of this process to stop; False: none does (yet)."""
    event = _stops.get(task_id)
    if event is not None:
        event.set()
    return event is not None


@contextmanager
def interruptible(task_id: str, timeout: timedelta | None) -> Iterator[threading.Event]:
    """Let orders to stop, and the timeout, reach the handler that is called in the block.

    Gives the event that says so. Raises StepCancelled or StepTimedOut out of the block.
    """
    event = _stops[task_id] = threading.Event()
    in_main = threading.current_thread() is threading.main_thread()
    ticking = _raise_in_main if in_main else _tell_thread
    try:
        with ticking(event, timeout):
            yield event
    finally:
        _stops.pop(task_id, None)


@contextmanager
def _raise_in_main(event: threading.Event, timeout: timedelta | None) -> Iterator[None]:
    global _armed  # noqa: PLW0603 - a process has one main thread

    def interrupt(number: int, _: FrameType | None) -> None:
        event.set()
        if _armed:
            late = number == signal.SIGALRM
            raise (StepTimedOut("timeout") if late else StepCancelled("told to stop"))

    signal.signal(signal.SIGUSR1, interrupt)
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, timeout.total_seconds() if timeout else 0)
    try:
        _armed = True
        yield
    finally:
        _armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _tell_thread(event: threading.Event, timeout: timedelta | None) -> Iterator[None]:
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
