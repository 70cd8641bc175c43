"""What a workflow is: steps, their order, their retry policy. Pure rules, no I/O."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from graphlib import TopologicalSorter
from typing import Any

DEFAULT_QUEUE = "default"
NORMAL = 4  # the priority of a run that names none: Low 2, Normal 4, High 6, Critical 8

# A chain's message carries the tasks behind it at about 270 bytes each; four keep it under 2 KiB.
SEGMENT = 4


@dataclass(frozen=True, kw_only=True)
class Retry:
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
    retry: Retry | None = None
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
    priority: int = NORMAL
    timeout: timedelta | None = None
    tags: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)  # JSON Schema of a run's parameters


def past_disabled(steps: Sequence[StepSpec]) -> list[StepSpec]:
    """The steps, each also needing what the disabled ones among its needs would have waited for."""
    by_key = {step.key: step for step in steps}
    waits_for: dict[str, dict[str, None]] = {}  # of a disabled step: the enabled ones before it
    for key in TopologicalSorter({step.key: step.needs for step in steps}).static_order():
        if not by_key[key].enabled:
            waits_for[key] = {}
            for need in by_key[key].needs:
                waits_for[key] |= waits_for.get(need, {need: None})
    return [
        replace(step, needs=tuple(dict.fromkeys([*step.needs, *_behind(step, waits_for)])))
        for step in steps
    ]


def _behind(step: StepSpec, waits_for: Mapping[str, Mapping[str, None]]) -> Iterator[str]:
    for need in step.needs if step.enabled else ():
        yield from waits_for.get(need, ())


def dependents(steps: Sequence[StepSpec]) -> dict[str, list[str]]:
    """Which steps need each step."""
    needed_by: dict[str, list[str]] = {step.key: [] for step in steps}
    for step in steps:
        for key in step.needs:
            needed_by[key].append(step.key)
    return needed_by


def downstream(key: str, needed_by: Mapping[str, Sequence[str]]) -> set[str]:
    """A step and everything that needs it, directly or not."""
    found, waiting = set[str](), [key]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += needed_by[key]
    return found


def followers(steps: Sequence[StepSpec]) -> dict[str, list[str]]:
    """The steps that follow each step in a straight line, as far as one segment reaches."""
    by_key = {step.key: step for step in steps}
    needed_by = dependents(steps)
    lines: dict[str, list[str]] = {}
    for step in steps:
        line: list[str] = []
        after = needed_by[step.key]
        while len(line) < SEGMENT - 1 and len(after) == 1:
            follower = by_key[after[0]]
            if len(follower.needs) > 1 or not follower.enabled:
                break
            line.append(follower.key)
            after = needed_by[follower.key]
        lines[step.key] = line
    return lines


def plan(spec: WorkflowSpec) -> list[dict[str, Any]]:
    """The rows that a run's steps are copied from, one per step, in order."""
    steps = past_disabled(spec.steps)
    needed_by, lines = dependents(steps), followers(steps)
    return [
        {
            "position": position,
            "key": step.key,
            "name": step.name or step.key,
            "uses": step.uses,
            "needs": list(step.needs),
            "dependents": needed_by[step.key],
            "followers": lines[step.key],
            "queue": step.queue,
            "priority": step.priority,
            "max_attempts": step.retry.attempts if step.retry else 1,
            "allow_failure": step.allow_failure,
            "enabled": step.enabled,
            "spec": _execution(step),
        }
        for position, step in enumerate(steps, start=1)
    ]


def _execution(step: StepSpec) -> dict[str, Any]:
    """What only the worker that executes the step has to know."""
    spec: dict[str, Any] = {"with": dict(step.args), "reads": list(step.reads)}
    if step.when is not None:
        spec["when"] = step.when
    if step.timeout is not None:
        spec["timeout"] = step.timeout.total_seconds()
    if step.retry is not None:
        spec["retry"] = {
            "attempts": step.retry.attempts,
            "delay": step.retry.delay.total_seconds(),
            "backoff": step.retry.backoff,
            "max_delay": step.retry.max_delay.total_seconds(),
            "jitter": step.retry.jitter,
            "on": list(step.retry.on),
        }
    return spec


def retry_of(spec: Mapping[str, Any]) -> Retry:
    """The retry policy in a step's row."""
    given = spec.get("retry")
    if given is None:
        return Retry(attempts=1)
    return Retry(
        attempts=given["attempts"],
        delay=timedelta(seconds=given["delay"]),
        backoff=given["backoff"],
        max_delay=timedelta(seconds=given["max_delay"]),
        jitter=given["jitter"],
        on=tuple(given["on"]),
    )
