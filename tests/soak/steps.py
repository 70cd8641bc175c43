"""Handlers of the soak: little work, with every kind of output."""

from orchestrator import RetryStep, StepContext, step


@step
def chat(context: StepContext) -> dict[str, int]:
    """Log lines, progress and a metric."""
    for number in range(1, 11):
        context.log.info("line %d of 10", number)
        context.progress(number, 10, stage="talking")
    print("printed")
    context.metric("lines", 10)
    return {"lines": 10}


@step
def flaky(context: StepContext) -> None:
    """Raise RetryStep at the first attempt."""
    if context.attempt == 1:
        raise RetryStep("not yet", after=0.1)


@step
def save(context: StepContext) -> None:
    """Save a small file."""
    context.save("small.txt", "a line of a report\n" * 50)


@step
def fail(context: StepContext) -> None:
    """Fail with a traceback."""
    raise ValueError("broken")
