"""Compile a test of a field to a condition: equality, comparison, range, list, regex, exists."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import ge, gt, le, lt
from typing import Any

from api.contracts.opendatadsl.errors import invalid
from api.contracts.opendatadsl.query_regex import translate
from api.contracts.opendatadsl.vocabulary import Wire, condition_on, exists, wire_of
from orchestrator.search.conditions import (
    ALWAYS,
    NEVER,
    Comparison,
    Condition,
    all_of,
    any_of,
    compare,
    match,
    negated,
    one_of,
    size,
)

MAX_TESTS = 100  # tests in one query
_MAX_SIZE = 500  # tests of columns they expand to; one of `message` expands to many

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)(Z|[+-]\d{2}:?\d{2})?",
    re.ASCII,
)
_invalid = partial(invalid, subject="filter")
Test = Callable[[Wire | None, Sequence[Any], str], Condition]


@dataclass(frozen=True)
class Span:
    """The interval that a date or an instant denotes, at the precision it is written with."""

    first: datetime
    end: datetime  # not included


@dataclass
class ConditionBuilder:
    """Compiles tests to conditions and limits their number in one query."""

    detailed: bool = False  # whether `status` has the longer list of values
    count: int = 0
    total_size: int = 0

    def build(self, name: str, function: str, operands: Sequence[Any], pointer: str) -> Condition:
        """The condition of a function applied to a field. Raises Invalid."""
        self.count += 1
        if self.count > MAX_TESTS:
            raise _invalid(pointer, f"a query has at most {MAX_TESTS} tests")
        wire = wire_of(name, detailed=self.detailed)
        condition = _FUNCTIONS[function](wire, operands, pointer)
        self.total_size += size(condition)
        if self.total_size > _MAX_SIZE:
            raise _invalid(pointer, "the tests are too many for such fields; leave some out")
        return condition


def _equal(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    _check_count(operands, 1, pointer)
    return _in(wire, operands, pointer)


def _in(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    missing = any(operand is None for operand in operands)
    values = [operand for operand in operands if operand is not None]
    if wire is None:
        return ALWAYS if missing else NEVER
    if wire.time is None:
        condition = one_of(wire.text, [_text(operand) for operand in values])
    else:
        spans = (_span(operand, pointer) for operand in values)
        condition = any_of(*(_between(wire, span, span) for span in spans))
    condition = NEVER if condition == NEVER else condition_on(wire, condition)
    return any_of(condition, negated(exists(wire))) if missing else condition


def _not_equal(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    return negated(_equal(wire, operands, pointer))


def _range(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    _check_count(operands, 2, pointer)
    low, high = operands
    if wire is None:
        return NEVER
    if wire.time is None:
        low, high = _text(low), _text(high)
        both = compare(wire.text, ge, low), compare(wire.text, le, high)
        return condition_on(wire, all_of(*both))
    return condition_on(wire, _between(wire, _span(low, pointer), _span(high, pointer)))


def _regex(
    wire: Wire | None, operands: Sequence[Any], pointer: str, *, ignore_case: bool = False
) -> Condition:
    _check_count(operands, 1, pointer)
    pattern = translate(_text(operands[0]), pointer)
    if wire is None:
        return NEVER
    return condition_on(wire, match(wire.text, pattern, ignore_case))


def _exists(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
    condition = NEVER if wire is None else exists(wire)
    return condition if operands[0] not in (False, 0) else negated(condition)


def _comparison(op: Comparison) -> Test:
    """A test for one side of a value; a date or a second counts as a whole interval."""

    def test(wire: Wire | None, operands: Sequence[Any], pointer: str) -> Condition:
        _check_count(operands, 1, pointer)
        if wire is None:
            return NEVER
        if wire.time is None:
            return condition_on(wire, compare(wire.text, op, _text(operands[0])))
        span = _span(operands[0], pointer)
        if op in (gt, le):
            return condition_on(wire, compare(wire.time, ge if op == gt else lt, span.end))
        return condition_on(wire, compare(wire.time, op, span.first))

    return test


_FUNCTIONS: Mapping[str, Test] = {
    "eq": _equal,
    "ne": _not_equal,
    "in": _in,
    "range": _range,
    "regex": _regex,
    "iregex": partial(_regex, ignore_case=True),
    "exists": _exists,
    "gt": _comparison(gt),
    "gte": _comparison(ge),
    "lt": _comparison(lt),
    "lte": _comparison(le),
}
FUNCTIONS = ("range", "gt", "gte", "lt", "lte", "ne", "in", "regex")  # available to users


def _between(wire: Wire, low: Span, high: Span) -> Condition:
    assert wire.time is not None
    return all_of(
        compare(wire.time, ge, low.first),
        compare(wire.time, lt, high.end),
    )


def _check_count(operands: Sequence[Any], count: int, pointer: str) -> None:
    if len(operands) != count:
        raise _invalid(pointer, f"takes {count} value{'s' * (count > 1)}, not {len(operands)}")


def _text(operand: Any) -> str:
    if isinstance(operand, bool):
        return "true" if operand else "false"
    return "null" if operand is None else str(operand)


def _span(operand: Any, pointer: str) -> Span:
    """Parse a date or an instant. Raises Invalid."""
    try:
        if _DATE.fullmatch(str(operand)):
            day = datetime.fromisoformat(operand).replace(tzinfo=UTC)
            return Span(day, day + timedelta(days=1))
        if instant := _INSTANT.fullmatch(str(operand)):
            return _instant(*instant.groups())
    except (ValueError, OverflowError):
        pass
    raise _invalid(pointer, "not a time; write it as in 2026-03-31 or 2026-03-31T02:00:01.120Z")


def _instant(date: str, clock: str, zone: str | None) -> Span:
    time, _, fraction = clock.partition(".")
    moment = datetime.fromisoformat(f"{date}T{time}{zone or 'Z'}").astimezone(UTC)
    if not fraction:
        unit = timedelta(seconds=1) if time.count(":") > 1 else timedelta(minutes=1)
        return Span(moment, moment + unit)
    digits = fraction[:6]
    moment += timedelta(microseconds=int(digits.ljust(6, "0")))
    return Span(moment, moment + timedelta(microseconds=10 ** (6 - len(digits))))
