"""Orders to stop, the signals of a worker, and what they do to a handler."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from operator import itemgetter
from signal import Signals

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from orchestrator import FailStep, RetryStep, StepCancelled, StepTimedOut
from tests.support.factories import eventually
from workers.isolation import interrupts
from workers.isolation.interrupts import CANCEL, HAND_BACK, HandedBack, interruptible, protected


def _raised(order: Signals, error: BaseException | None) -> type | None:
    """The exception that leaves the block when its handler gets the order and raises `error`."""

    def handle() -> None:
        with interruptible("task", None) as stop:
            assert interrupts.request_stop("task", order)
            assert stop.is_set()
            if error is not None:
                raise error

    with ThreadPoolExecutor(1) as threads:
        raised = threads.submit(handle).exception()
    return None if raised is None else type(raised)


@pytest.mark.parametrize("error", [StepCancelled("seen"), ValueError("broken"), SystemExit(1)])
def test_a_step_is_handed_back_whatever_its_handler_raises(
    error: BaseException,
) -> None:
    assert _raised(HAND_BACK, error) is HandedBack
    assert _raised(CANCEL, error) is type(error)


@pytest.mark.parametrize("error", [FailStep("no"), RetryStep("later"), None])
def test_an_outcome_that_the_handler_chose_counts(error: BaseException | None) -> None:
    expected = None if error is None else type(error)

    assert _raised(HAND_BACK, error) is expected


def test_a_child_ignores_worker_signals_but_a_fork_of_its_handler_ends() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with protected():
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):  # some get the signal before they run Python
            assert _exit_code_after(signal.SIGTERM, _sleeping_fork()) == -signal.SIGTERM
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", interrupts.OWN_SIGNALS)
def test_a_fork_keeps_the_signal_handlers_of_the_step(number: Signals) -> None:
    with protected(), interruptible("task", None):
        assert _exit_code_after(number, _sleeping_fork()) == -number
        signal.signal(number, lambda *_: os._exit(7))
        assert _exit_code_after(number, _sleeping_fork()) == 7


def _sleeping_fork() -> int:
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    return pid


def _exit_code_after(number: Signals, forked: int) -> int:
    os.kill(forked, number)
    _, status = eventually(lambda: os.waitpid(forked, os.WNOHANG), until=itemgetter(0))
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize(("order", "expected"), [(CANCEL, StepCancelled), (HAND_BACK, HandedBack)])
def test_an_order_before_the_handler_begins_is_kept(
    order: Signals, expected: type[BaseException]
) -> None:
    began = False
    with protected():
        os.kill(os.getpid(), order)
        with pytest.raises(StepCancelled) as raised, interruptible("task", None):
            began = True

    assert not began
    assert raised.type is expected


def test_a_soft_timeout_raises_once_and_is_no_order() -> None:
    with protected(), interruptible("task", None, timedelta(seconds=0.05)) as stop:
        with pytest.raises(SoftTimeLimitExceeded) as raised:
            time.sleep(10)
        assert raised.value.args == (0.05,)
        assert not stop.is_set()
        with pytest.raises(StepCancelled):  # an order still counts
            os.kill(os.getpid(), CANCEL)


def test_the_timeout_comes_after_the_soft_one() -> None:
    soft, hard = timedelta(seconds=0.05), timedelta(seconds=0.1)

    def handle() -> None:
        with protected(), interruptible("task", hard, soft):
            with pytest.raises(SoftTimeLimitExceeded):
                time.sleep(10)
            time.sleep(10)

    with pytest.raises(StepTimedOut):
        handle()


def test_a_thread_has_no_soft_timeout() -> None:
    def handle() -> bool:
        with interruptible("task", None, timedelta(0)) as stop:
            return stop.is_set()

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(handle).result() is False


def test_no_order_reaches_a_task_that_does_not_run() -> None:
    assert not interrupts.request_stop("nobody", HAND_BACK)
