"""Handlers of the benches."""

from orchestrator import StepContext, step


def fibonacci(number: int) -> int:
    """The exponential recursion: work for the CPU."""
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


@step(name="bench.fib")
def fib(context: StepContext) -> int:
    """The Fibonacci number of `number`."""
    return fibonacci(context.args["number"])


@step(name="bench.say")
def say(context: StepContext) -> None:
    """Print a line."""
    print("here")
