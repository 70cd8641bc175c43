"""Every exception gives a failure with the name of its class, in a bounded time and size."""

from datetime import timedelta

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from orchestrator import RetryStep, StepTimedOut
from orchestrator.engine.outcomes import Failed
from tests.support import nasty
from workers.isolation.failures import failure_of


@pytest.mark.parametrize("name", list(nasty.FAILURES))
def test_a_failure_names_the_class(name: str) -> None:
    try:
        raise nasty.FAILURES[name]()
    except BaseException as error:
        failure = failure_of(error)

    assert failure.kinds[0] == name or failure.kinds == ("FailStep",)
    assert name in failure.message or name == "FailStep"
    assert len(failure.message) < 10_000
    assert failure.traceback is None or 0 < len(failure.traceback) <= 8_000
    for text in (failure.message, failure.traceback or "", *failure.kinds):
        assert type(text) is str


def test_the_wait_of_a_retry_is_a_duration_or_the_one_of_the_policy() -> None:
    error = RetryStep("later", 3)
    assert failure_of(error).after == error.after
    error.after = "tomorrow"  # type: ignore[assignment]
    assert failure_of(error).after is None


def test_an_order_to_stop_that_comes_meanwhile_is_obeyed() -> None:
    class Slow(Exception):
        def __str__(self) -> str:
            raise StepTimedOut("timeout")

    with pytest.raises(StepTimedOut):
        failure_of(Slow())


def _failure(error: BaseException, cause: BaseException | None = None) -> Failed:
    with pytest.raises(type(error)) as raised:
        raise error from cause
    return failure_of(raised.value)


def test_a_retry_counts_by_the_exception_that_caused_it_too() -> None:
    failed = _failure(RetryStep("later", 5, attempts=4), ConnectionError("refused"))

    assert failed.kinds[0] == "RetryStep"
    assert {"ConnectionError", "OSError"} <= set(failed.kinds)
    assert (failed.message, failed.after, failed.attempts) == ("later", timedelta(seconds=5), 4)


def test_a_retry_without_a_cause_has_its_own_classes_only() -> None:
    failed = _failure(RetryStep("later"))

    assert "OSError" not in failed.kinds
    assert failed.attempts == 1


@pytest.mark.parametrize(
    ("args", "limit"), [((0.5,), " of 0.5 s"), ((), ""), (("late",), "")], ids=repr
)
def test_a_soft_time_limit_is_a_timeout(args: tuple[object, ...], limit: str) -> None:
    failed = _failure(SoftTimeLimitExceeded(*args))

    assert failed.message == f"the step ran longer than its soft time limit{limit}"
    assert failed.kinds[:2] == ("Timeout", "SoftTimeLimitExceeded")
