"""Every exception gives a failure with the name of its class, in a bounded time and size."""

import pytest

from orchestrator import RetryStep, StepTimedOut
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
