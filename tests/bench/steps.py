"""What the benches execute besides `noop`."""

from orchestrator import StepContext, step


def fibonacci(number: int) -> int:
    """The slow way: work for a processor."""
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


@step(name="bench.fib")
def fib(context: StepContext) -> int:
    """Of the number in `with`."""
    return fibonacci(context.args["number"])


@step(name="bench.say")
def say(context: StepContext) -> None:
    """Print a line."""
    print("here")
