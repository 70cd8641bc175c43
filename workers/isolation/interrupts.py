"""How an order to stop reaches a running handler.

In a prefork child, tasks run in the main thread, and a signal raises an exception inside the
handler; an order that arrives before the handler begins is kept until then. In a thread nothing can
be raised, so handlers there see only `context.cancelled()`.

A timeout is an order that a timer of this module gives: the alarms of the system belong to the
handler. What it does to its signals can delay an order, until the worker's parent process kills it.
A soft timeout is no order: it raises SoftTimeLimitExceeded once, which the handler may catch. As in
Celery, there is none in a thread.

There are two orders: CANCEL, because the run was cancelled, and HAND_BACK, because the worker
ends. A handler sees no difference; the order decides what becomes of its step.

The signals that end a worker may be sent to its whole process group or container: a child ignores
them, since its parent lets steps end or hands them back.
"""

# Not `signal.signal`, which looks for an enum of each handler and takes ten times as long.
import _signal  # type: ignore[import-not-found]
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from celery import signals
from celery.exceptions import SoftTimeLimitExceeded

from orchestrator.sdk.signals import FailStep, RetryStep, StepCancelled, StepTimedOut

CANCEL, HAND_BACK = signal.SIGUSR1, signal.SIGUSR2  # sent to a child
_WORKER_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
OWN_SIGNALS = (CANCEL, HAND_BACK, *_WORKER_SIGNALS)  # handled anew for each step


class HandedBack(StepCancelled):
    """The handler stopped because its worker ends: another worker executes the step again."""


class StopFlag:
    """Whether a handler should stop. No Event: setting one in a signal handler may deadlock."""

    def __init__(self) -> None:
        self.handed_back = False  # whether the reason is that the worker ends
        self.late = False  # whether the reason is the timeout
        self.soft: float | None = None  # seconds of a soft timeout that has just passed
        self._is_set = False

    def set(self) -> None:
        """Request the stop."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return self._is_set


_masks: dict[int, set[int]] = {}  # by thread, of those that fork now
_flags: dict[str, StopFlag] = {}  # by task id, of the handlers that run in this process
_pending: set[int] = set()  # orders that arrived before the handler began
_in_handler = False  # whether the main thread is inside a handler


def request_stop(task_id: str, order: signal.Signals = CANCEL) -> bool:
    """Stop a handler that runs in a thread of this process; False when there is none (yet)."""
    flag = _flags.get(task_id)
    if flag is not None:
        flag.handed_back |= order == HAND_BACK
        flag.set()
    return flag is not None


@signals.worker_process_init.connect
def _ignore_hand_back(**_: Any) -> None:
    # While no handler runs: the default action of SIGUSR2 is to kill the process.
    signal.signal(HAND_BACK, signal.SIG_IGN)


def _block_signals() -> None:
    # Python forgets a signal that a new process gets before it runs.
    _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, OWN_SIGNALS)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop(threading.get_ident()))


def _reset_signals() -> None:
    """In a process that a handler forks: our signals end it, as `multiprocessing` expects."""
    for number in OWN_SIGNALS:
        if getattr(signal.getsignal(number), "__module__", None) == __name__:
            signal.signal(number, signal.SIG_DFL)
    _unblock_signals()


os.register_at_fork(
    before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_reset_signals
)


def _keep_order(number: int, _: FrameType | None) -> None:
    _pending.add(number)


def keep_orders() -> None:
    """From now on keep orders for the next handler; the last one has ended."""
    if threading.current_thread() is threading.main_thread():
        _pending.clear()
        for order in (CANCEL, HAND_BACK):
            _signal.signal(order, _keep_order)


@contextmanager
def protected() -> Iterator[None]:
    """Ignore the signals that end a worker during the block, and keep orders for the handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_worker_signal(*_: Any) -> None:
        for flag in list(_flags.values()):  # its subprocesses may be hit, and so it fails
            flag.handed_back = True

    keep_orders()
    previous = [(number, signal.signal(number, on_worker_signal)) for number in _WORKER_SIGNALS]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
        for order in (CANCEL, HAND_BACK):  # one that comes too late
            signal.signal(order, signal.SIG_IGN)


@contextmanager
def interruptible(
    task_id: str, timeout: timedelta | None, soft: timedelta | None = None
) -> Iterator[StopFlag]:
    """Deliver orders to stop, and the timeout, to the handler that is called in the block.

    Yields the handler's flag. Raises HandedBack, StepCancelled or StepTimedOut out of the block.
    """
    flag = _flags[task_id] = StopFlag()
    in_main = threading.current_thread() is threading.main_thread()
    try:
        with _raise_in_main(flag, timeout, soft) if in_main else _flag_in_thread(flag, timeout):
            yield flag
    except (FailStep, RetryStep, StepTimedOut):
        raise  # the outcome that the handler chose
    except BaseException as error:  # libraries turn the order into errors of their own
        if flag.handed_back:
            raise HandedBack("its worker ends") from error
        raise
    finally:
        _flags.pop(task_id, None)


@contextmanager
def _raise_in_main(
    flag: StopFlag, timeout: timedelta | None, soft: timedelta | None
) -> Iterator[None]:
    global _in_handler  # noqa: PLW0603 - a process has one main thread

    def interrupt(number: int, _: FrameType | None) -> None:
        seconds, flag.soft = flag.soft, None
        if seconds is not None and number == CANCEL and not flag.late:
            if _in_handler:
                raise SoftTimeLimitExceeded(seconds)
            return
        flag.handed_back |= number == HAND_BACK
        flag.set()
        if _in_handler:
            raise (StepTimedOut("timeout") if flag.late else StepCancelled("told to stop"))

    def expire() -> None:
        flag.late = True
        os.kill(os.getpid(), CANCEL)

    def warn() -> None:
        assert soft
        flag.soft = soft.total_seconds()
        os.kill(os.getpid(), CANCEL)

    for number in (CANCEL, HAND_BACK):
        _signal.signal(number, interrupt)
    with _timer(soft, warn), _timer(timeout, expire):
        try:
            _in_handler = True
            for order in tuple(_pending):
                interrupt(order, None)
            yield
        finally:
            _in_handler = False


@contextmanager
def _flag_in_thread(flag: StopFlag, timeout: timedelta | None) -> Iterator[None]:
    def expire() -> None:
        flag.late = True
        flag.set()

    try:
        with _timer(timeout, expire):
            yield
    except StepCancelled as order:
        if flag.late:
            raise StepTimedOut("timeout") from order
        raise


@contextmanager
def _timer(timeout: timedelta | None, expire: Callable[[], None]) -> Iterator[None]:
    """Call `expire` in a thread unless the block ends within the timeout."""
    if timeout is None:
        yield
        return
    timer = threading.Timer(timeout.total_seconds(), expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
