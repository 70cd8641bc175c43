"""The README's first workflow in Python."""

from datetime import timedelta

from orchestrator import RetryPolicy, StepContext, Workflow, step


@step(retry=RetryPolicy(attempts=5, delay=timedelta(seconds=2)))
def fetch(context: StepContext) -> list[int]:
    """Read something."""
    return [3, 4, context.params["more"]]


@step(timeout=timedelta(minutes=5))
def total(context: StepContext) -> dict[str, int]:
    """Add it up."""
    return {"total": sum(context.results["fetch"])}


daily = Workflow("daily-total", fetch, total)
