"""The handler of the hostile soak: it says when it runs, and nothing else."""

import os
from pathlib import Path

from orchestrator import StepContext, step


@step
def note(context: StepContext) -> None:
    """Append the step and its attempt to a file, in one write."""
    line = f"{context.idempotency_key} {context.attempt}\n".encode()
    file = os.open(Path(context.params["notes"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)
