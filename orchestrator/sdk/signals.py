"""How a step ends early."""

from datetime import timedelta

_LONGEST_WAIT = timedelta(days=365)


class StepSignal(BaseException):
    """An order that reaches a running handler from outside."""


class StepCancelled(StepSignal):
    """The run was told to stop, or its worker ends: clean up and let this pass."""


class StepTimedOut(StepCancelled):
    """The step's timeout passed: clean up and let this pass."""


class RetryStep(Exception):
    """Try this step again after a while, if its retry policy has attempts left."""

    def __init__(self, reason: str, after: timedelta | float | None = None) -> None:
        super().__init__(reason)
        if isinstance(after, int | float):
            after = timedelta(seconds=after)
        # None: as the retry policy says.
        self.after = after if after is None else max(timedelta(0), min(after, _LONGEST_WAIT))


class FailStep(Exception):
    """Fail this step now, whatever its retry policy says."""
