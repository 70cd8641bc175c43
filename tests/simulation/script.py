"""The actions of a seed; each is possible in any state, so that any can be left out."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

# Relative frequencies.
_WEIGHTS = {
    "work": 40, "sweep": 14, "wait": 10, "beat": 8, "submit": 3, "cancel": 2, "retry": 3,
    "reprioritise": 1, "lose_lease": 3, "lose_child": 1, "lose_worker": 1, "drain": 1, "haunt": 1,
    "drop": 2, "repeat": 4, "delay": 2, "flush": 1, "broker_away": 1,
    "postgres_away": 1, "postgres_crash": 2,
}  # fmt: skip
LENGTH = 34


class Action(NamedTuple):
    """One action; the numbers choose among the possibilities at that time."""

    name: str
    a: int
    b: int
    c: int
    d: int


def script(seed: int) -> list[Action]:
    """The actions of a seed; the first one submits a run."""
    chance = random.Random(seed)
    names = chance.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()), k=LENGTH)
    return [Action(name, *chance.choices(range(720), k=4)) for name in ["submit", *names]]


def shrunk(
    actions: Sequence[Action], fails: Callable[[Sequence[Action]], bool], attempts: int = 400
) -> list[Action]:
    """A shorter list that still fails, and from which no single action can be left out."""
    remaining, size = list(actions), len(actions) // 2
    while size and attempts:
        at = 0
        while at < len(remaining) and attempts:
            attempts -= 1
            shorter = remaining[:at] + remaining[at + size :]
            if fails(shorter):
                remaining = shorter
            else:
                at += size
        size //= 2
    return remaining
