"""`noop`, `sleep` and `fail`: for trials, and for waiting."""

import time
from typing import Any

from orchestrator import FailStep, StepCancelled, StepContext, step
from orchestrator.spec.durations import parse_duration

_POLL_INTERVAL = 0.2  # seconds between checks for cancellation, for handlers in threads


@step(name="noop")
def noop(context: StepContext) -> Any:
    """Do nothing; the result is the step's `with`, if it has one."""
    return dict(context.args) or None


@step(name="sleep")
def sleep(context: StepContext) -> dict[str, float]:
    """Sleep for `seconds`, a number or a duration."""
    try:
        seconds = parse_duration(context.args.get("seconds", 1)).total_seconds()
    except ValueError as error:
        raise FailStep(f"seconds: {error}") from error
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if context.cancelled():
            raise StepCancelled("told to stop")
        time.sleep(min(left, _POLL_INTERVAL))
    return {"seconds": seconds}


@step(name="fail")
def fail(context: StepContext) -> dict[str, int]:
    """Fail with `message`, for the first `times` attempts or for ever."""
    times = context.args.get("times")
    if times is not None and not isinstance(times, int):
        raise FailStep("times: a number of attempts")
    if times is None or context.attempt <= times:
        raise RuntimeError(str(context.args.get("message", "told to fail")))
    return {"attempt": context.attempt}
