"""Handlers of the runs during the chaos; their results name the attempt."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator import FailStep, StepCancelled, StepContext, step

DIARY = "CHAOS_DIARY"  # names the folder, outside of the system, for records of executions
SAVED = 20_000  # bytes, far more than the full disk allows


class Execution(NamedTuple):
    """One call of a handler, recorded by itself."""

    step_id: str
    attempt: int
    at: float  # monotonic: the same for all processes, cannot be set
    clock: float  # wall clock, which can be set


@step
def note(context: StepContext) -> dict[str, int]:
    """Record outside of the system that this attempt was executed, and its two clocks."""
    name = f"{context.idempotency_key} {context.attempt} {time.monotonic()} {time.time()}"
    Path(os.environ[DIARY], name).touch()  # an empty file: possible on a full disk, too
    return {"attempt": context.attempt}


@step
def linger(context: StepContext) -> dict[str, int]:
    """Sleep, so that faults hit a running step."""
    time.sleep(context.args["seconds"])
    return {"attempt": context.attempt}


@step
def resist(context: StepContext) -> None:
    """Ignore the order to stop."""
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
    raise FailStep("as intended")


@step
def keep(context: StepContext) -> dict[str, Any]:
    """Save a file."""
    saved = context.save("kept.bin", os.urandom(SAVED))
    return {"attempt": context.attempt, "sha256": saved.sha256}


def diary(path: Path) -> list[Execution]:
    """All recorded executions, in their order."""
    words = (each.name.split() for each in path.iterdir())
    noted = [
        Execution(step, int(number), float(at), float(clock)) for step, number, at, clock in words
    ]
    return sorted(noted, key=lambda each: each.at)
