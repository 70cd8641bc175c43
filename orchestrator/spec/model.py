"""A workflow's definition as values."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

DEFAULT_QUEUE = "default"
NORMAL_PRIORITY = 4  # the priority of a run that names none: Low 2, Normal 4, High 6, Critical 8


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to try a failed step again: `attempts` counts the first try too.

    The n-th wait is `delay * backoff ** (n - 1)`, at most `max_delay`, shortened at random by up to
    the fraction `jitter`. `on` names exception classes; empty means any.
    """

    attempts: int = 3
    delay: timedelta = timedelta(seconds=1)
    backoff: float = 2.0
    max_delay: timedelta = timedelta(minutes=10)
    jitter: float = 0.0
    on: tuple[str, ...] = ()

    def wait(self, failures: int, chance: float | None = None) -> timedelta:
        """How long to wait after so many failures."""
        longest = self.max_delay.total_seconds() if self.delay else 0.0
        try:
            wait = min(self.delay.total_seconds() * float(self.backoff) ** (failures - 1), longest)
        except OverflowError:
            wait = longest
        chance = random.random() if chance is None else chance
        return timedelta(seconds=wait * (1 - self.jitter * chance))

    def covers(self, kinds: Iterable[str]) -> bool:
        """Whether an error with these class names is tried again."""
        return not self.on or not set(self.on).isdisjoint(kinds)


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """One step of a workflow, checked and with its defaults filled in."""

    key: str
    uses: str
    name: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)  # the spec's `with`
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()  # needs, and the steps its templates name
    when: str | None = None
    retry: RetryPolicy | None = None
    timeout: timedelta | None = None
    queue: str | None = None
    priority: int | None = None
    allow_failure: bool = False
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class WorkflowSpec:
    """A workflow, checked and with its defaults filled in."""

    name: str
    steps: tuple[StepSpec, ...]
    service: str = ""
    description: str = ""
    queue: str = DEFAULT_QUEUE
    priority: int = NORMAL_PRIORITY
    timeout: timedelta | None = None
    tags: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)  # JSON Schema of a run's parameters


def retry_policy_of(spec: Mapping[str, Any]) -> RetryPolicy:
    """The retry policy in a step's row."""
    given = spec.get("retry")
    if given is None:
        return RetryPolicy(attempts=1)
    return RetryPolicy(
        attempts=given["attempts"],
        delay=timedelta(seconds=given["delay"]),
        backoff=given["backoff"],
        max_delay=timedelta(seconds=given["max_delay"]),
        jitter=given["jitter"],
        on=tuple(given["on"]),
    )
