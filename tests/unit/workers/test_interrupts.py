"""What becomes of an attempt whose handler was told to stop, in a thread."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from signal import Signals

import pytest

from orchestrator import FailStep, RetryStep, StepCancelled
from workers import interrupts
from workers.interrupts import CANCEL, HAND_BACK, HandedBack, interruptible, protected


def _raised(order: Signals, error: BaseException | None) -> type | None:
    """What leaves the block when its handler gets the order and raises this."""

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
def test_whatever_a_handler_makes_of_the_order_its_step_is_handed_back(
    error: BaseException,
) -> None:
    assert _raised(HAND_BACK, error) is HandedBack
    assert _raised(CANCEL, error) is type(error)


@pytest.mark.parametrize("error", [FailStep("no"), RetryStep("later"), None])
def test_what_a_handler_decides_itself_counts(error: BaseException | None) -> None:
    expected = None if error is None else type(error)

    assert _raised(HAND_BACK, error) is expected


def test_what_is_for_the_worker_passes_a_child_but_ends_what_its_handler_has_forked() -> None:
    before = signal.getsignal(signal.SIGTERM)
    forking = multiprocessing.get_context("fork")
    began = forking.Event()
    with protected():
        os.kill(os.getpid(), signal.SIGTERM)
        forked = forking.Process(target=lambda: (began.set(), time.sleep(60)))
        forked.start()
        assert began.wait(10)
        forked.terminate()
        forked.join(10)

    assert forked.exitcode == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("order", "expected"), [(CANCEL, StepCancelled), (HAND_BACK, HandedBack)])
def test_an_order_that_comes_before_the_handler_is_not_lost(
    order: Signals, expected: type[BaseException]
) -> None:
    began = False
    with protected():
        os.kill(os.getpid(), order)
        with pytest.raises(StepCancelled) as raised, interruptible("task", None):
            began = True

    assert not began
    assert raised.type is expected


def test_nobody_is_told_who_does_not_run() -> None:
    assert not interrupts.request_stop("nobody", HAND_BACK)
