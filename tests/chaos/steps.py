"""Handlers of the runs that go through the chaos; what they return shows which attempt did."""

import os
import time
from pathlib import Path
from typing import Any

from orchestrator import FailStep, StepContext, step

DIARY = "CHAOS_DIARY"  # names the file, outside of the system, in which executions are noted
SAVED = 20_000  # bytes, far more than a full disk takes


@step
def note(context: StepContext) -> dict[str, int]:
    """Note outside of the system that this attempt was executed."""
    line = f"{context.idempotency_key} {context.attempt}\n"
    diary = os.open(os.environ[DIARY], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(diary, line.encode())  # in one piece: many append at once
    finally:
        os.close(diary)
    return {"attempt": context.attempt}


@step
def linger(context: StepContext) -> dict[str, int]:
    """Take a while, so that whatever happens happens in the middle of it."""
    time.sleep(context.args["seconds"])
    return {"attempt": context.attempt}


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


def diary(path: Path) -> set[tuple[str, int]]:
    """The attempts that were executed: step id and number."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(step_id, int(number)) for step_id, number in (line.split() for line in lines)}
