"""The values that a workflow's definition is parsed into."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from orchestrator.spec.durations import format_duration, parse_duration

DEFAULT_QUEUE = "default"
QUEUE_NAME = r"^(?!.*\n)[A-Za-z0-9][A-Za-z0-9_.\-]{0,31}$"
NORMAL_PRIORITY = 4  # the default; 2 is low, 6 high, 8 critical


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a failed step is tried again: `attempts` includes the first one.

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
        """The wait after this many failures; `chance` is the random number from 0 to 1."""
        maximum = self.max_delay.total_seconds() if self.delay else 0.0
        try:
            wait = min(self.delay.total_seconds() * float(self.backoff) ** (failures - 1), maximum)
        except OverflowError:
            wait = maximum
        chance = random.random() if chance is None else chance
        return timedelta(seconds=wait * (1 - self.jitter * chance))

    def covers(self, kinds: Iterable[str]) -> bool:
        """Whether an error with one of these class names is retried."""
        return not self.on or not set(self.on).isdisjoint(kinds)

    def to_spec(self) -> dict[str, Any]:
        """The policy as a spec has it, durations as text."""
        return self._dump(format_duration)

    def to_row(self) -> dict[str, Any]:
        """The policy as a step's row has it, durations in seconds."""
        return self._dump(timedelta.total_seconds)

    @classmethod
    def from_spec(cls, document: Mapping[str, Any]) -> Self:
        """The policy in a checked spec; missing options have their defaults."""
        return cls._load(document, parse_duration)

    @classmethod
    def from_row(cls, document: Mapping[str, Any] | None) -> Self:
        """The policy in a step's row; without one, a single attempt."""
        return cls._load(document or {"attempts": 1}, lambda seconds: timedelta(seconds=seconds))

    def _dump(self, write: Callable[[timedelta], Any]) -> dict[str, Any]:
        delays = {"delay": write(self.delay), "max_delay": write(self.max_delay)}
        return {**vars(self), **delays, "on": list(self.on)}

    @classmethod
    def _load(cls, document: Mapping[str, Any], read: Callable[[Any], timedelta]) -> Self:
        options: dict[str, Any] = {
            name: read(value) if name in ("delay", "max_delay") else value
            for name, value in document.items()
        }
        options["attempts"] = int(options.get("attempts", cls.attempts))  # JSON Schema takes 4.0
        return cls(**{**options, "on": tuple(options.get("on", ()))})


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
    title: str | None = None  # its display name
    service: str = ""
    description: str = ""
    queue: str = DEFAULT_QUEUE
    priority: int = NORMAL_PRIORITY
    timeout: timedelta | None = None
    tags: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)  # JSON Schema of a run's parameters
