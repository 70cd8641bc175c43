"""Durable runs on Celery: the API for the author of a step.

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

from orchestrator.sdk.context import StepContext
from orchestrator.sdk.signals import FailStep, RetryStep, StepCancelled, StepTimedOut
from orchestrator.sdk.steps import Workflow, step
from orchestrator.spec.model import RetryPolicy

__all__ = [
    "FailStep",
    "RetryPolicy",
    "RetryStep",
    "StepCancelled",
    "StepContext",
    "StepTimedOut",
    "Workflow",
    "step",
]
