"""What a workflow is: steps, their order, their retry policy. Pure rules, no I/O."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import Any

from orchestrator.spec.model import StepSpec, WorkflowSpec

# A chain's message carries the tasks behind it at about 270 bytes each; four keep it under 2 KiB.
SEGMENT_LENGTH = 4


def bridge_disabled(steps: Sequence[StepSpec]) -> list[StepSpec]:
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


def chain_after(steps: Sequence[StepSpec]) -> dict[str, list[str]]:
    """The steps that follow each step in a straight line, as far as one segment reaches."""
    by_key = {step.key: step for step in steps}
    needed_by = dependents(steps)
    lines: dict[str, list[str]] = {}
    for step in steps:
        line: list[str] = []
        after = needed_by[step.key]
        while len(line) < SEGMENT_LENGTH - 1 and len(after) == 1:
            follower = by_key[after[0]]
            if len(follower.needs) > 1 or not follower.enabled:
                break
            line.append(follower.key)
            after = needed_by[follower.key]
        lines[step.key] = line
    return lines


def plan(spec: WorkflowSpec) -> list[dict[str, Any]]:
    """The rows that a run's steps are copied from, one per step, in order."""
    steps = bridge_disabled(spec.steps)
    needed_by, lines = dependents(steps), chain_after(steps)
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
