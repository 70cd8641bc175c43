"""Handlers of the runs that go through the chaos; what they return shows which attempt did."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator import FailStep, StepCancelled, StepContext, step

DIARY = "CHAOS_DIARY"  # names the folder, outside of the system, in which executions are noted
SAVED = 20_000  # bytes, far more than a full disk takes


class Execution(NamedTuple):
    """One call of a handler, as it noted it itself."""

    step_id: str
    attempt: int
    at: float  # by the clock that is the same for all processes and cannot be set
    clock: float  # by the one that can


@step
def note(context: StepContext) -> dict[str, int]:
    """Note outside of the system that this attempt was executed, and what time it seems to be."""
    told = f"{context.idempotency_key} {context.attempt} {time.monotonic()} {time.time()}"
    Path(os.environ[DIARY], told).touch()  # an empty file each: a full disk takes that, too
    return {"attempt": context.attempt}


@step
def linger(context: StepContext) -> dict[str, int]:
    """Take a while, so that whatever happens happens in the middle of it."""
    time.sleep(context.args["seconds"])
    return {"attempt": context.attempt}


@step
def resist(context: StepContext) -> None:
    """Go on for long, whoever says to stop."""
    end = time.monotonic() + context.args["seconds"]
    while time.monotonic() < end:
        try:
            time.sleep(0.5)
        except StepCancelled:
            continue


@step
def falter(context: StepContext) -> dict[str, int]:
    """Fail at the first attempt."""
    if context.attempt == 1:
        raise RuntimeError("not at the first attempt")
    return {"attempt": context.attempt}


@step
def fail(context: StepContext) -> None:
    """Fail for good."""
    raise FailStep("as it was made to")


@step
def keep(context: StepContext) -> dict[str, Any]:
    """Save a file."""
    saved = context.save("kept.bin", os.urandom(SAVED))
    return {"attempt": context.attempt, "sha256": saved.sha256}


def diary(path: Path) -> list[Execution]:
    """Everything that was executed and noted, in the order in which it was."""
    words = (each.name.split() for each in path.iterdir())
    noted = [
        Execution(step, int(number), float(at), float(clock)) for step, number, at, clock in words
    ]
    return sorted(noted, key=lambda each: each.at)
