"""Durable runs on Celery: what the author of a step imports.

    >>> from orchestrator import StepContext, Workflow, step

    >>> @step
    ... def fetch(context: StepContext) -> list[int]:
    ...     return [3, 4, context.params["more"]]

    >>> @step
    ... def total(context: StepContext) -> dict[str, int]:
    ...     return {"total": sum(context.results["fetch"])}

    >>> daily = Workflow("daily-total", fetch, total)

A step's test is a function call:

    >>> total(StepContext(results={"fetch": [3, 4, 5]}))
    {'total': 12}
"""

from orchestrator.handlers import (
    FailStep,
    RetryStep,
    StepCancelled,
    StepContext,
    StepTimedOut,
    Workflow,
    step,
)
from orchestrator.workflows import Retry

__all__ = [
    "FailStep",
    "Retry",
    "RetryStep",
    "StepCancelled",
    "StepContext",
    "StepTimedOut",
    "Workflow",
    "step",
]
