"""The exceptions by which a step ends early."""

from datetime import timedelta

_MAX_WAIT = timedelta(days=365)


class StepSignal(BaseException):
    """Raised into a running handler."""


class StepCancelled(StepSignal):
    """The run was cancelled, or its worker shuts down: clean up and let this propagate."""


class StepTimedOut(StepCancelled):
    """The step's timeout passed: clean up and let this propagate."""


class RetryStep(Exception):
    """Retry this step after a wait, if its retry policy has attempts left.

    `attempts` is how many attempts a step without a retry policy has.
    """

    def __init__(
        self, reason: str, after: timedelta | float | None = None, *, attempts: int = 1
    ) -> None:
        super().__init__(reason)
        self.attempts = attempts
        if isinstance(after, int | float):
            after = timedelta(seconds=after)
        # None: the wait of the retry policy.
        self.after = after if after is None else max(timedelta(0), min(after, _MAX_WAIT))


class FailStep(Exception):
    """Fail this step without a retry."""
