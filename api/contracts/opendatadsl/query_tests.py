"""Compile a test of a field to a condition: equality, comparison, range, list, regex, exists."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import ge, gt, le, lt
from typing import Any

from api.contracts.opendatadsl.errors import invalid
from api.contracts.opendatadsl.query_regex import translate
from api.contracts.opendatadsl.vocabulary import PLAIN, Wire, condition_on, exists, wire_of
from orchestrator.errors import Invalid
from orchestrator.search.compiler import FieldSelection
from orchestrator.search.conditions import (
    Comparison,
    Condition,
    DateOf,
    all_of,
    any_of,
    compare,
    match,
    negated,
    one_of,
    size,
)

_NEGATIVE = ("ne", "nin")
MAX_TESTS = 100  # tests in one query
RAW_PLUS = "\x1f"  # stands for a `+` of a query that was not encoded; a blank to the parsers
_MAX_SIZE = 500  # tests of columns they expand to; one of `message` expands to many

_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)(Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_UNITS = (timedelta(days=1), timedelta(minutes=1))  # by the colons in a clock
_invalid = partial(invalid, subject="filter")
Test = Callable[[Wire, Sequence[Any], str], Condition]


@dataclass
class ConditionBuilder:
    """Compiles tests to conditions and limits their number in one query."""

    fields: FieldSelection = PLAIN
    names: Mapping[str, str] = field(default_factory=dict)  # of workflows, by display name
    count: int = 0
    total_size: int = 0

    def build(self, name: str, function: str, operands: Sequence[Any], pointer: str) -> Condition:
        """The condition of a function applied to a field. Raises Invalid."""
        self.count += 1
        if self.count > MAX_TESTS:
            raise _invalid(pointer, f"a query has at most {MAX_TESTS} tests")
        arity, test = _FUNCTIONS[function]
        if arity not in (None, len(operands)):
            detail = f"takes {arity} value{'s' * (arity != 1)}, not {len(operands)}"
            raise _invalid(pointer, detail)
        wire = wire_of(name, self.fields)
        if name == "name" and test in (_in, _not_in):  # by the name there is an index
            wire = wire_of(name)
            test = partial(_by_name, test, self.names)
        conditions = _each_reading(lambda reading: test(wire, reading, pointer), operands)
        condition = (all_of if function in _NEGATIVE else any_of)(*conditions)
        self.total_size += size(condition)
        if self.total_size > _MAX_SIZE:
            raise _invalid(pointer, "the tests are too many for such fields; leave some out")
        return condition


def _each_reading(
    test: Callable[[Sequence[Any]], Condition], operands: Sequence[Any]
) -> list[Condition]:
    """The condition of each reading of the operands that the test can use.

    A raw `+` is a blank to those who encode a form, and a plus to those who write an address.
    """
    if RAW_PLUS not in "".join(each for each in operands if isinstance(each, str)):
        return [test(operands)]
    conditions, error = [], None
    for sign in (" ", "+"):
        replaced = [e.replace(RAW_PLUS, sign) if isinstance(e, str) else e for e in operands]
        try:
            conditions.append(test(replaced))
        except Invalid as refusal:
            error = error or refusal
    if not conditions and error:
        raise error
    return conditions


def _in(wire: Wire, operands: Sequence[Any], pointer: str) -> Condition:
    values = [operand for operand in operands if operand is not None]
    if isinstance(wire.text, DateOf):
        condition = any_of(*(_between(wire, each, each, pointer) for each in values))
    else:
        condition = one_of(wire.text, map(_text, values))
    condition = condition_on(wire, condition)
    return condition if len(values) == len(operands) else any_of(condition, negated(exists(wire)))


def _not_in(wire: Wire, operands: Sequence[Any], pointer: str) -> Condition:
    return negated(_in(wire, operands, pointer))


def _by_name(
    test: Test, names: Mapping[str, str], wire: Wire, operands: Sequence[Any], pointer: str
) -> Condition:
    return test(wire, [names.get(each, each) for each in operands], pointer)


def _range(wire: Wire, operands: Sequence[Any], pointer: str) -> Condition:
    return condition_on(wire, _between(wire, operands[0], operands[1], pointer))


def _regex(
    wire: Wire, operands: Sequence[Any], pointer: str, *, ignore_case: bool = False
) -> Condition:
    pattern = translate(_text(operands[0]), pointer)
    return condition_on(wire, match(wire.text, pattern, ignore_case))


def _exists(wire: Wire, operands: Sequence[Any], pointer: str) -> Condition:
    return exists(wire) if operands[0] not in (False, 0) else negated(exists(wire))


def _compare(wire: Wire, operands: Sequence[Any], pointer: str, *, op: Comparison) -> Condition:
    return condition_on(wire, _bound(wire, op, operands[0], pointer))


_FUNCTIONS: Mapping[str, tuple[int | None, Test]] = {  # with the number of operands, None: any
    "eq": (1, _in),
    "ne": (1, _not_in),
    "in": (None, _in),
    "nin": (None, _not_in),
    "range": (2, _range),
    "regex": (1, _regex),
    "iregex": (1, partial(_regex, ignore_case=True)),
    "exists": (1, _exists),
    "gt": (1, partial(_compare, op=gt)),
    "gte": (1, partial(_compare, op=ge)),
    "lt": (1, partial(_compare, op=lt)),
    "lte": (1, partial(_compare, op=le)),
}
FUNCTIONS = ("range", "gt", "gte", "lt", "lte", "ne", "in", "regex")  # available to users


def _between(wire: Wire, low: Any, high: Any, pointer: str) -> Condition:
    return all_of(_bound(wire, ge, low, pointer), _bound(wire, le, high, pointer))


def _bound(wire: Wire, op: Comparison, operand: Any, pointer: str) -> Condition:
    """A test of one side of a value; a date or a second counts as a whole interval."""
    if not isinstance(wire.text, DateOf):
        return compare(wire.text, op, _text(operand))
    first, end = _interval(operand, pointer)
    if op in (gt, le):
        return compare(wire.value, ge if op is gt else lt, end)
    return compare(wire.value, op, first)


def _text(operand: Any) -> str:
    if isinstance(operand, bool):
        return "true" if operand else "false"
    return "null" if operand is None else str(operand)


def _interval(operand: Any, pointer: str) -> tuple[datetime, datetime]:
    """What a date or an instant denotes at its precision, without the end. Raises Invalid."""
    try:
        if time := _TIME.fullmatch(str(operand)):
            date, clock, zone = time.groups("")
            moment = datetime.fromisoformat(f"{date}T{clock or '00:00'}{zone or 'Z'}")
            digits = clock.partition(".")[2][:6]
            unit = timedelta(microseconds=10 ** (6 - len(digits)))
            unit = _UNITS[clock.count(":")] if len(clock) < 6 else unit
            offset = moment.utcoffset() or timedelta()
            first = _add(moment.replace(tzinfo=UTC), -offset)
            return first, _add(first, unit)
    except ValueError:
        pass
    raise _invalid(pointer, "not a time; write it as in 2026-03-31 or 2026-03-31T02:00:01.120Z")


def _add(moment: datetime, duration: timedelta) -> datetime:
    """The sum, or the first or last instant that there is: no run is beyond."""
    try:
        return moment + duration
    except OverflowError:
        return _LAST if duration > timedelta() else _FIRST
