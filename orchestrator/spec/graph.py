"""The graph of a workflow's steps, and the plan that its runs are copied from. No I/O."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from graphlib import TopologicalSorter
from itertools import chain
from typing import Any

from orchestrator.errors import InvalidSpec, Mistake
from orchestrator.spec.hidden_params import Parts, hidden_parts
from orchestrator.spec.model import StepSpec, WorkflowSpec
from orchestrator.work_limits import take_step

# A chain's message carries the tasks behind it at about 270 bytes each; four keep it under 2 KiB.
SEGMENT_LENGTH = 4
MAX_NEEDS = 250_000  # of all steps of a workflow, through disabled ones
_LEAVE_OUT = "leave the disabled ones out"


def bridge_disabled(steps: Sequence[StepSpec]) -> list[StepSpec]:
    """The steps; one that needs a disabled step also needs the enabled steps before that.

    Raises InvalidSpec if there are more than `MAX_NEEDS` such needs.
    """
    by_key = {step.key: step for step in steps}
    before: dict[str, dict[str, None]] = {}  # by key of a disabled step
    count = 0
    for key in TopologicalSorter({step.key: step.needs for step in steps}).static_order():
        if not by_key[key].enabled:
            before[key] = {}
            for need in by_key[key].needs:
                before[key] |= before.get(need, {need: None})
                count = _counted(count, before.get(need, ()))
    output = []
    for step in steps:
        behind = [before.get(need, ()) for need in step.needs if step.enabled]
        for needs in behind:
            count = _counted(count, needs)
        output.append(replace(step, needs=tuple(dict.fromkeys(chain(step.needs, *behind)))))
    return output


def _counted(count: int, needs: Sized) -> int:
    take_step()
    if count + len(needs) > MAX_NEEDS:
        detail = f"through disabled steps, steps need more than {MAX_NEEDS:,} others; {_LEAVE_OUT}"
        raise InvalidSpec("the spec is not a workflow", Mistake("/steps", detail))
    return count + len(needs)


def dependents(steps: Sequence[StepSpec]) -> dict[str, list[str]]:
    """By key: the steps that need it."""
    needed_by: dict[str, list[str]] = {step.key: [] for step in steps}
    for step in steps:
        for key in step.needs:
            needed_by[key].append(step.key)
    return needed_by


def downstream(key: str, needed_by: Mapping[str, Sequence[str]]) -> set[str]:
    """A step and everything that needs it, directly or not."""
    reached, pending = set[str](), [key]
    while pending:
        key = pending.pop()
        if key not in reached:
            reached.add(key)
            pending += needed_by[key]
    return reached


def chain_after(steps: Sequence[StepSpec]) -> dict[str, list[str]]:
    """By key: the steps after it in a straight line, at most `SEGMENT_LENGTH - 1` of them."""
    by_key = {step.key: step for step in steps}
    needed_by = dependents(steps)
    chains: dict[str, list[str]] = {}
    for step in steps:
        chain: list[str] = []
        after = needed_by[step.key]
        while len(chain) < SEGMENT_LENGTH - 1 and len(after) == 1:
            follower = by_key[after[0]]
            if len(follower.needs) > 1 or not follower.enabled:
                break
            chain.append(follower.key)
            after = needed_by[follower.key]
        chains[step.key] = chain
    return chains


def plan(spec: WorkflowSpec) -> list[dict[str, Any]]:
    """The rows that a run's steps are copied from, one per step, in order."""
    steps = bridge_disabled(spec.steps)
    needed_by, chains = dependents(steps), chain_after(steps)
    hides = hidden_parts(spec.params)
    return [
        _row(position, step, needed_by[step.key], chains[step.key], hides)
        for position, step in enumerate(steps, start=1)
    ]


def _row(
    position: int, step: StepSpec, dependents: list[str], followers: list[str], hides: Parts
) -> dict[str, Any]:
    take_step()
    return {
        "position": position,
        "key": step.key,
        "name": step.name or step.key,
        "uses": step.uses,
        "needs": list(step.needs),
        "dependents": dependents,
        "followers": followers,
        "queue": step.queue,
        "priority": step.priority,
        "max_attempts": step.retry.attempts if step.retry else 1,
        "allow_failure": step.allow_failure,
        "enabled": step.enabled,
        "spec": _execution_spec(step) | ({"hides": hides} if hides else {}),
    }


def _execution_spec(step: StepSpec) -> dict[str, Any]:
    """The part of a step that only the worker that executes it reads."""
    spec: dict[str, Any] = {"with": dict(step.args), "reads": list(step.reads)}
    if step.when is not None:
        spec["when"] = step.when
    if step.timeout is not None:
        spec["timeout"] = step.timeout.total_seconds()
    if step.retry is not None:
        spec["retry"] = step.retry.to_row()
    return spec
