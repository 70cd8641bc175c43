"""`noop`, `sleep` and `fail`: to try things out, and to wait."""

import time
from typing import Any

from orchestrator import FailStep, StepCancelled, StepContext, step
from orchestrator.spec.durations import parse_duration

_SLICE = 0.2  # seconds; a thread can only look whether it should stop


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
        time.sleep(min(left, _SLICE))
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
