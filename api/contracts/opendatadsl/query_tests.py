"""One test of one field, as a condition: equality, comparison, range, list, pattern, presence."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from api.contracts.opendatadsl.query_regex import translated
from api.contracts.opendatadsl.vocabulary import Wire, about, is_there, wire_of
from orchestrator.errors import Invalid, Mistake
from orchestrator.search.conditions import (
    ALWAYS,
    NEVER,
    Condition,
    Op,
    all_of,
    any_of,
    compare,
    match,
    negated,
    one_of,
    size,
)

MOST = 100  # tests in one query
_MOST_IN_ALL = 500  # tests of the core's fields that these come to: of a message there are many

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)(Z|[+-]\d{2}:?\d{2})?",
    re.ASCII,
)


@dataclass(frozen=True)
class Span:
    """The time that a date or an instant stands for, as exactly as it is written."""

    first: datetime
    end: datetime  # not included


@dataclass
class Comparing:
    """Makes conditions of tests, and counts them."""

    detailed: bool = False  # whether all the words of a status are told apart
    made: int = 0
    in_all: int = 0

    def of(self, name: str, function: str, operands: Sequence[Any], pointer: str) -> Condition:
        """What a function of a field asks for. Raises Invalid."""
        self.made += 1
        if self.made > MOST:
            raise _refusal(pointer, f"a query has at most {MOST} tests")
        wire = wire_of(name, detailed=self.detailed)
        found = _FUNCTIONS[function](wire, operands, pointer)
        self.in_all += size(found)
        if self.in_all > _MOST_IN_ALL:
            raise _refusal(pointer, "the tests are too many for such fields; leave some out")
        return found


def _equal(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    _check(operands, 1, pointer)
    return _in(wire, operands, pointer)


def _in(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    missing = any(operand is None for operand in operands)
    wanted = [operand for operand in operands if operand is not None]
    if wire is None:
        return ALWAYS if missing else NEVER
    if wire.time is None:
        found = one_of(wire.text, [_text(operand) for operand in wanted])
    else:
        spans = (_span(operand, pointer) for operand in wanted)
        found = any_of(*(_between(wire, span, span) for span in spans))
    found = NEVER if found == NEVER else about(wire, found)
    return any_of(found, negated(is_there(wire))) if missing else found


def _not_equal(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    return negated(_equal(wire, operands, pointer))


def _range(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    _check(operands, 2, pointer)
    low, high = operands
    if wire is None:
        return NEVER
    if wire.time is None:
        low, high = _text(low), _text(high)
        both = compare(wire.text, Op.GE, low), compare(wire.text, Op.LE, high)
        return about(wire, all_of(*both))
    return about(wire, _between(wire, _span(low, pointer), _span(high, pointer)))


def _regex(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    _check(operands, 1, pointer)
    pattern = translated(_text(operands[0]), pointer)
    return NEVER if wire is None else about(wire, match(wire.text, pattern))


def _iregex(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    pattern = translated(_text(operands[0]), pointer)
    return NEVER if wire is None else about(wire, match(wire.text, pattern, ignore_case=True))


def _exists(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    there = NEVER if wire is None else is_there(wire)
    return there if operands[0] not in (False, 0) else negated(there)


def _side(op: Op) -> Callable[[Wire | None, Sequence[Any], str], Condition]:
    """On one side of a value; a day or a second is passed as a whole."""

    def test(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
        _check(operands, 1, pointer)
        if wire is None:
            return NEVER
        if wire.time is None:
            return about(wire, compare(wire.text, op, _text(operands[0])))
        span = _span(operands[0], pointer)
        if op in (Op.GT, Op.LE):
            return about(wire, compare(wire.time, Op.GE if op == Op.GT else Op.LT, span.end))
        return about(wire, compare(wire.time, op, span.first))

    return test


_FUNCTIONS: Mapping[str, Callable[[Wire | None, Sequence[Any], str], Condition]] = {
    "eq": _equal,
    "ne": _not_equal,
    "in": _in,
    "range": _range,
    "regex": _regex,
    "iregex": _iregex,
    "exists": _exists,
    "gt": _side(Op.GT),
    "gte": _side(Op.GE),
    "lt": _side(Op.LT),
    "lte": _side(Op.LE),
}
FUNCTIONS = ("range", "gt", "gte", "lt", "lte", "ne", "in", "regex")  # that a user may write


def _between(wire: Wire, low: Span, high: Span) -> Condition:
    assert wire.time is not None
    return all_of(
        compare(wire.time, Op.GE, low.first),
        compare(wire.time, Op.LT, high.end),
    )


def _check(operands: Sequence[Any], count: int, pointer: str) -> None:
    if len(operands) != count:
        raise _refusal(pointer, f"takes {count} value{'s' * (count > 1)}, not {len(operands)}")


def _text(operand: Any) -> str:
    if isinstance(operand, bool):
        return "true" if operand else "false"
    return "null" if operand is None else str(operand)


def _span(operand: Any, pointer: str) -> Span:
    """The time that is written. Raises Invalid."""
    try:
        if _DATE.fullmatch(str(operand)):
            day = datetime.fromisoformat(operand).replace(tzinfo=UTC)
            return Span(day, day + timedelta(days=1))
        if found := _INSTANT.fullmatch(str(operand)):
            return _instant(*found.groups())
    except (ValueError, OverflowError):
        pass
    told = "as in 2026-03-31 or 2026-03-31T02:00:01.120Z"
    raise _refusal(pointer, f"not a time; write it {told}")


def _instant(date: str, clock: str, zone: str | None) -> Span:
    written, _, fraction = clock.partition(".")
    moment = datetime.fromisoformat(f"{date}T{written}{zone or 'Z'}").astimezone(UTC)
    if not fraction:
        unit = timedelta(seconds=1) if written.count(":") > 1 else timedelta(minutes=1)
        return Span(moment, moment + unit)
    digits = fraction[:6]
    moment += timedelta(microseconds=int(digits.ljust(6, "0")))
    return Span(moment, moment + timedelta(microseconds=10 ** (6 - len(digits))))


def _refusal(pointer: str, detail: str) -> Invalid:
    return Invalid("the filter cannot be used", Mistake(pointer, detail))
