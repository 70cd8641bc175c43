"""Conditions over runs as data: values, and tests of them. `compiler` makes SQL of them.

A surface with a query language parses it into these. It defines its own fields by the core's with
`Choice` and `Path`, so that a field is output, searched, sorted and counted by one definition.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

Comparison = Callable[[Any, Any], Any]  # `lt`, `le`, `gt` or `ge` of `operator`


@dataclass(frozen=True)
class Field:
    """A field of the core, by its name in `compiler`."""

    name: str


@dataclass(frozen=True)
class Path:
    """The concatenation of texts; NULL if one of them is NULL."""

    parts: tuple["Value", ...]


@dataclass(frozen=True)
class DateOf:
    """A time in UTC as text, in a format of Postgres' `to_char`."""

    field: Field
    format: str


@dataclass(frozen=True)
class Choice:
    """The value of the branch whose condition holds; at most one of them may."""

    branches: tuple[tuple["Condition", "Value"], ...]


@dataclass(frozen=True)
class And:
    """All of the parts; true without any."""

    parts: tuple["Condition", ...] = ()


@dataclass(frozen=True)
class Or:
    """Any of the parts; false without any."""

    parts: tuple["Condition", ...] = ()


@dataclass(frozen=True)
class Not:
    """Negation as IS NOT TRUE: a NULL counts as false."""

    part: "Condition"


@dataclass(frozen=True)
class InValues:
    """The value is one of these."""

    value: "Value"
    operands: tuple[Any, ...]


@dataclass(frozen=True)
class Compare:
    """The value compared with a constant."""

    value: "Value"
    op: Comparison
    operand: Any


@dataclass(frozen=True)
class Match:
    """A part of the value matches a regular expression of Postgres."""

    value: "Value"
    pattern: str
    ignore_case: bool = False


@dataclass(frozen=True)
class Present:
    """The value is not NULL."""

    value: "Value"


@dataclass(frozen=True)
class AnyStep:
    """Any of a run's steps, log lines or written ids is so; the fields are theirs."""

    of: str
    condition: "Condition"


Value = Field | str | Path | DateOf | Choice  # a `str` is a constant
Condition = And | Or | Not | InValues | Compare | Match | Present | AnyStep

ALWAYS, NEVER = And(), Or()


def size(condition: Condition) -> int:
    """The number of single tests in a condition."""
    match condition:
        case And(parts) | Or(parts):
            return sum(map(size, parts))
        case Not(part) | AnyStep(_, part):
            return size(part)
        case _:
            return 1


def parts_of(condition: Condition) -> tuple[Condition, ...]:
    """The conditions that must all hold."""
    return condition.parts if isinstance(condition, And) else (condition,)


def excludes(one: Condition, other: Condition) -> bool:
    """Whether no run can meet both, as far as their lists of values show."""
    pairs = product(parts_of(one), parts_of(other))
    return any(_is_disjoint(a, b) or _is_disjoint(b, a) for a, b in pairs)


def _is_disjoint(one: Condition, other: Condition) -> bool:
    match one, other:
        case InValues(value, operands), InValues(same, others) if value == same:
            return set(operands).isdisjoint(others)
        case InValues(value, operands), Compare(same, op, limit) if value == same:
            return not any(op(operand, limit) for operand in operands)
        case _:
            return False


def all_of(*parts: Condition) -> Condition:
    """The conjunction, simplified."""
    flat = [each for part in parts for each in parts_of(part)]
    if NEVER in flat:
        return NEVER
    return flat[0] if len(flat) == 1 else And(tuple(flat))


def any_of(*parts: Condition) -> Condition:
    """The disjunction, simplified: lists of the same value become one."""
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
    """The negation, simplified."""
    if part == ALWAYS:
        return NEVER
    if part == NEVER:
        return ALWAYS
    return part.part if isinstance(part, Not) else Not(part)


def one_of(value: Value, operands: Iterable[Any]) -> Condition:
    """Whether the value is one of these."""
    operands = tuple(operands)
    if isinstance(value, Choice):
        return any_of(*(all_of(when, one_of(each, operands)) for when, each in value.branches))
    if isinstance(value, str):
        return ALWAYS if value in operands else NEVER
    return InValues(value, operands) if operands else NEVER


def compare(value: Value, op: Comparison, operand: Any) -> Condition:
    """Whether the comparison holds."""
    if isinstance(value, Choice):
        return any_of(*(all_of(when, compare(each, op, operand)) for when, each in value.branches))
    if isinstance(value, str):
        return ALWAYS if op(value, operand) else NEVER
    return Compare(value, op, operand)


def match(value: Value, pattern: str, ignore_case: bool) -> Condition:
    """Whether a part of the value matches a pattern."""
    if isinstance(value, Choice):
        matches = ((when, match(each, pattern, ignore_case)) for when, each in value.branches)
        return any_of(*(all_of(*each) for each in matches))
    return Match(value, pattern, ignore_case)


def present(value: Value) -> Condition:
    """Whether the value is not NULL."""
    if isinstance(value, Choice):
        return any_of(*(all_of(when, present(each)) for when, each in value.branches))
    return ALWAYS if isinstance(value, str) else Present(value)
