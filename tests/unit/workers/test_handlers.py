"""The handlers that every worker has, called as functions."""

from typing import Any

import pytest

from orchestrator import FailStep, StepCancelled, StepContext
from workers.handlers import builtin_handlers, fail, http, noop, sleep


@pytest.mark.parametrize("allow_shell", [True, False])
def test_every_worker_has_these_handlers(allow_shell: bool) -> None:
    assert builtin_handlers(allow_shell=allow_shell).names() == [
        "fail", "http", "noop", "shell", "sleep"
    ]  # fmt: skip


def test_shell_runs_only_where_it_is_allowed() -> None:
    context = StepContext(args={"command": ["echo", "hello"]})
    on, off = (builtin_handlers(allow_shell=allow).get("shell") for allow in (True, False))
    assert on
    assert off

    assert on(context) == {"exit_code": 0, "stdout": "hello\n", "stderr": ""}
    with pytest.raises(FailStep, match="ORCHESTRATOR_ALLOW_SHELL=1 turns it on"):
        off(context)


@pytest.mark.parametrize(("args", "result"), [({"a": [1]}, {"a": [1]}), ({}, None)])
def test_noop_returns_its_arguments(args: dict[str, Any], result: Any) -> None:
    assert noop(StepContext(args=args)) == result


@pytest.mark.parametrize(
    ("written", "seconds"), [(0, 0.0), (0.001, 0.001), ("0", 0.0), ("1ms", 0.001), ("100us", 1e-4)]
)
def test_sleep_takes_a_number_or_a_duration(written: Any, seconds: float) -> None:
    assert sleep(StepContext(args={"seconds": written})) == {"seconds": seconds}


@pytest.mark.parametrize("written", ["soon", "", -1, None, True, [1], {}], ids=repr)
def test_sleep_fails_for_good_without_a_duration(written: Any) -> None:
    with pytest.raises(FailStep, match=r"seconds: .* is not a duration"):
        sleep(StepContext(args={"seconds": written}))


def test_sleep_stops_when_cancelled() -> None:
    with pytest.raises(StepCancelled):
        sleep(StepContext(args={"seconds": 600}, cancelled=lambda: True))


@pytest.mark.parametrize("attempt", [1, 2, 1000])
def test_fail_fails_for_ever_by_default(attempt: int) -> None:
    with pytest.raises(RuntimeError, match="told to fail"):
        fail(StepContext(attempt=attempt))


def test_fail_fails_with_its_message_so_many_times() -> None:
    args = {"times": 2, "message": "out of luck"}

    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="out of luck"):
            fail(StepContext(args=args, attempt=attempt))
    assert fail(StepContext(args=args, attempt=3)) == {"attempt": 3}


@pytest.mark.parametrize("args", [{}, {"url": None}, {"url": 5}], ids=repr)
def test_http_without_an_address_fails_for_good(args: dict[str, Any]) -> None:
    with pytest.raises(FailStep, match=r"with\.url must be the address to call"):
        http(StepContext(args=args))


@pytest.mark.parametrize("url", ["example", "ftp://example", "http://", ""], ids=repr)
def test_http_with_an_impossible_address_fails_for_good(url: str) -> None:
    with pytest.raises(FailStep, match="the request cannot be sent"):
        http(StepContext(args={"url": url}))
