"""What happens in one seed: a list of actions that make sense in any state, so that any may go."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

# How often each of them happens.
_WEIGHTS = {
    "work": 40, "sweep": 14, "wait": 10, "beat": 8, "submit": 3, "cancel": 2, "retry": 3,
    "reprioritise": 1, "lose_lease": 3, "lose_child": 1, "lose_worker": 1, "drain": 1, "haunt": 1,
    "drop": 2, "repeat": 4, "delay": 2, "flush": 1, "broker_away": 1,
    "postgres_away": 1, "postgres_crash": 2,
}  # fmt: skip
LENGTH = 34


class Action(NamedTuple):
    """One thing that happens; the numbers choose among what there is at that time."""

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
    actions: Sequence[Action], fails: Callable[[Sequence[Action]], bool], tries: int = 400
) -> list[Action]:
    """A shorter list that fails as well, with nothing in it that can be left out alone."""
    kept, size = list(actions), len(actions) // 2
    while size and tries:
        at = 0
        while at < len(kept) and tries:
            tries -= 1
            shorter = kept[:at] + kept[at + size :]
            if fails(shorter):
                kept = shorter
            else:
                at += size
        size //= 2
    return kept
