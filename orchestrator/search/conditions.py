"""What is asked of runs, as plain data: values, and conditions over them. `searching` answers.

A surface that lets its users write queries reads them into these. The values of its own words are
made from the core's fields with `Choice` and `Joined`, so that a word is shown, searched, sorted
and counted by one definition.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from operator import ge, gt, le, lt
from typing import Any


class Op(Enum):
    """How two values stand to each other."""

    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


@dataclass(frozen=True)
class Field:
    """One of the core's own values, by its name in `searching`."""

    name: str


@dataclass(frozen=True)
class Literal:
    """A text that is the same for every run."""

    text: str


@dataclass(frozen=True)
class Path:
    """Texts one after the other; nothing when one of them is missing."""

    parts: tuple["Value", ...]


@dataclass(frozen=True)
class DateOf:
    """A time in UTC as text, in the words of Postgres' `to_char`."""

    field: Field
    format: str


@dataclass(frozen=True)
class Choice:
    """The value whose condition holds. At most one of the conditions may."""

    branches: tuple[tuple["Condition", "Value"], ...]


@dataclass(frozen=True)
class And:
    """All of them; so nothing is asked without any."""

    parts: tuple["Condition", ...] = ()


@dataclass(frozen=True)
class Or:
    """Any of them; so nothing is found without any."""

    parts: tuple["Condition", ...] = ()


@dataclass(frozen=True)
class Not:
    """The opposite; also of what cannot be said, because a value is missing."""

    part: "Condition"


@dataclass(frozen=True)
class InValues:
    """The value is one of these."""

    value: "Value"
    operands: tuple[Any, ...]


@dataclass(frozen=True)
class Compare:
    """The value lies on this side of another."""

    value: "Value"
    op: Op
    operand: Any


@dataclass(frozen=True)
class Match:
    """A part of the value fits a pattern, in Postgres' regular expressions."""

    value: "Value"
    pattern: str
    ignore_case: bool = False


@dataclass(frozen=True)
class Present:
    """There is a value."""

    value: "Value"


@dataclass(frozen=True)
class AnyStep:
    """Any of a run's steps, log lines or written ids is so; the fields are theirs."""

    of: str
    condition: "Condition"


Value = Field | Literal | Path | DateOf | Choice
Condition = And | Or | Not | InValues | Compare | Match | Present | AnyStep

ALWAYS, NEVER = And(), Or()
_HOLDS = {Op.LT: lt, Op.LE: le, Op.GT: gt, Op.GE: ge}


def size(condition: Condition) -> int:
    """How many single tests it comes to."""
    match condition:
        case And(parts) | Or(parts):
            return sum(map(size, parts))
        case Not(part) | AnyStep(_, part):
            return size(part)
        case _:
            return 1


def parts_of(condition: Condition) -> tuple[Condition, ...]:
    """What must all be so."""
    return condition.parts if isinstance(condition, And) else (condition,)


def excludes(one: Condition, other: Condition) -> bool:
    """Whether nothing can be both, as far as their lists of values tell."""
    return any(_apart(a, b) or _apart(b, a) for a in parts_of(one) for b in parts_of(other))


def _apart(one: Condition, other: Condition) -> bool:
    if (
        not isinstance(one, InValues)
        or not isinstance(other, InValues | Compare)
        or one.value != other.value
    ):
        return False
    if isinstance(other, InValues):
        return set(one.operands).isdisjoint(other.operands)
    return not any(_HOLDS[other.op](operand, other.operand) for operand in one.operands)


def all_of(*parts: Condition) -> Condition:
    """All of them, as simply as that can be said."""
    flat = [each for part in parts for each in parts_of(part)]
    if NEVER in flat:
        return NEVER
    return flat[0] if len(flat) == 1 else And(tuple(flat))


def any_of(*parts: Condition) -> Condition:
    """Any of them, as simply as that can be said."""
    flat = [each for part in parts for each in (part.parts if isinstance(part, Or) else (part,))]
    if ALWAYS in flat:
        return ALWAYS
    members: dict[Value, dict[Any, None]] = {}
    for each in flat:
        if isinstance(each, InValues):
            members.setdefault(each.value, {}).update(dict.fromkeys(each.operands))
    lists = [InValues(value, tuple(operands)) for value, operands in members.items()]
    flat = [*lists, *(each for each in flat if not isinstance(each, InValues))]
    return flat[0] if len(flat) == 1 else Or(tuple(flat))


def negated(part: Condition) -> Condition:
    """The opposite."""
    if part == ALWAYS:
        return NEVER
    if part == NEVER:
        return ALWAYS
    return part.part if isinstance(part, Not) else Not(part)


def one_of(value: Value, operands: Iterable[Any]) -> Condition:
    """Whether the value is one of these; of a choice, whether it is the one of such a value."""
    wanted = tuple(operands)
    if isinstance(value, Choice):
        return any_of(*(all_of(when, one_of(each, wanted)) for when, each in value.branches))
    if isinstance(value, Literal):
        return ALWAYS if value.text in wanted else NEVER
    return InValues(value, wanted) if wanted else NEVER


def compare(value: Value, op: Op, operand: Any) -> Condition:
    """Whether the value lies on this side of another."""
    if isinstance(value, Choice):
        return any_of(*(all_of(when, compare(each, op, operand)) for when, each in value.branches))
    if isinstance(value, Literal):
        return ALWAYS if _HOLDS[op](value.text, operand) else NEVER
    return Compare(value, op, operand)


def match(value: Value, pattern: str, *, ignore_case: bool = False) -> Condition:
    """Whether a part of the value fits a pattern."""
    if isinstance(value, Choice):
        return any_of(
            *(
                all_of(when, match(each, pattern, ignore_case=ignore_case))
                for when, each in value.branches
            )
        )
    return Match(value, pattern, ignore_case)


def present(value: Value) -> Condition:
    """Whether there is a value."""
    if isinstance(value, Choice):
        return any_of(*(all_of(when, present(each)) for when, each in value.branches))
    return ALWAYS if isinstance(value, Literal) else Present(value)
