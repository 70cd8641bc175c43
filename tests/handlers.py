"""Handlers that the e2e and chaos tests run on real workers."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery

from orchestrator import RetryStep, StepCancelled, StepContext, step

app = Celery("existing", broker="memory://")


@app.task(name="existing.add")
def add(left: int, right: int) -> int:
    """A task of somebody's Celery application."""
    return left + right


@step
def hang(context: StepContext) -> None:
    """Say who runs it, then sleep for very long."""
    _say(context, f"{os.getpid()}")
    time.sleep(600)


@step
def hang_once(context: StepContext) -> dict[str, Any]:
    """Hang at the first attempt only."""
    _say(context, f"{context.attempt} {os.getpid()}")
    if context.attempt == 1:
        time.sleep(600)
    return {"attempt": context.attempt, "key": context.idempotency_key}


@step
def stubborn(context: StepContext) -> None:
    """Catch the order to stop, and go on."""
    _say(context, f"{os.getpid()}")
    while True:
        try:
            time.sleep(600)
        except StepCancelled:
            continue


@step
def tidy(context: StepContext) -> None:
    """Clean up when told to stop."""
    _say(context, f"{os.getpid()}")
    try:
        time.sleep(600)
    except StepCancelled as order:
        _say(context, f"cleaned up after {type(order).__name__}")
        raise


@step
def wait_politely(context: StepContext) -> None:
    """Look whether it should stop, as a handler in a thread has to."""
    _say(context, "waiting")
    while not context.cancelled():
        time.sleep(0.05)
    raise StepCancelled("seen")


@step
def kill_worker(context: StepContext) -> None:
    """Take its process down with it, every time."""
    _say(context, f"{context.attempt}")
    os.kill(os.getpid(), signal.SIGKILL)


@step
def flaky(context: StepContext) -> dict[str, int]:
    """Ask for another try twice."""
    if context.attempt <= 2:
        raise RetryStep("not yet")
    return {"attempt": context.attempt}


@step
def when(context: StepContext) -> dict[str, float]:
    """Say when it ran."""
    return {"at": time.time()}


def _say(context: StepContext, line: str) -> None:
    """Append a line to the file that the run's `say` names."""
    with Path(context.params["say"]).open("a") as told:
        told.write(f"{line}\n")
