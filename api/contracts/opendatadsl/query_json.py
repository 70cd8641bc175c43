"""The query language in JSON: documents that filter, and pipelines that group."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.contracts.opendatadsl.query_tests import Comparing
from api.contracts.opendatadsl.query_text import check
from orchestrator.errors import Invalid, Mistake
from orchestrator.json_values import escape_pointer, find_unstorable
from orchestrator.search.conditions import Condition, all_of, any_of, negated

MOST_STAGES = 20
DEEPEST = 20  # documents in documents

_JOINS: Mapping[str, Callable[..., Condition]] = {
    "$and": all_of,
    "$or": any_of,
    "$nor": lambda *parts: negated(any_of(*parts)),
}
_TESTS = {
    "$eq": "eq", "$ne": "ne", "$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte",
    "$in": "in", "$nin": "nin", "$regex": "regex", "$exists": "exists",
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What is said of the members of a group: `$sum`, `$avg`, `$min` or `$max` of something."""

    function: str
    of: float | str  # a number, or the name of a field


@dataclass
class Pipeline:
    """What an `_aggregate` asks for."""

    condition: Condition = field(default_factory=all_of)
    keys: Mapping[str, str] | None = None  # the fields that make a group, by name in `_id`
    single: bool = True  # the `_id` of a group is the value of the one field itself
    measures: dict[str, Measured] = field(default_factory=dict)
    sort: list[tuple[str, bool]] = field(default_factory=list)  # name, and whether it descends
    limit: int | None = None
    skip: int = 0
    project: dict[str, bool] | None = None


def read_json(written: str, pointer: str) -> Any:
    """The JSON of a parameter. Raises Invalid."""
    check(written, pointer)
    try:
        document = json.loads(written)
    except (ValueError, RecursionError):
        raise _refusal(pointer, "not JSON") from None
    if mistake := find_unstorable(document):
        raise _refusal(f"{pointer}{mistake.pointer}", mistake.detail)
    return document


def read_document(tests: Comparing, document: Any, pointer: str, depth: int = 0) -> Condition:
    """What a JSON filter asks for. Raises Invalid."""
    if not isinstance(document, dict):
        raise _refusal(pointer, "an object of fields is wanted")
    if depth > DEEPEST:
        raise _refusal(pointer, f"documents go at most {DEEPEST} deep")
    parts = []
    for name, given in document.items():
        here = f"{pointer}/{escape_pointer(name)}"
        if name in _JOINS:
            if not isinstance(given, list) or not given:
                raise _refusal(here, "a list of documents is wanted")
            parts.append(
                _JOINS[name](*(read_document(tests, each, here, depth + 1) for each in given))
            )
        elif name.startswith("$"):
            raise _refusal(here, f"not taken; there are {', '.join(_JOINS)}")
        else:
            parts.append(_read_field(tests, name, given, here))
    return all_of(*parts)


def _read_field(tests: Comparing, name: str, given: Any, pointer: str) -> Condition:
    if not isinstance(given, dict):
        return tests.of(name, "eq", [_scalar(given, pointer)], pointer)
    ignores = given.get("$options") == "i"
    parts = []
    for sign, operand in given.items():
        here = f"{pointer}/{escape_pointer(sign)}"
        if sign == "$not":
            parts.append(negated(_read_field(tests, name, operand, here)))
        elif sign in _TESTS:
            function = "iregex" if sign == "$regex" and ignores else _TESTS[sign]
            parts.append(_read_test(tests, name, function, operand, here))
        elif sign != "$options":
            raise _refusal(here, f"not taken; there are {', '.join(_TESTS)}")
    return all_of(*parts)


def _read_test(tests: Comparing, name: str, function: str, operand: Any, pointer: str) -> Condition:
    if function not in ("in", "nin"):
        return tests.of(name, function, [_scalar(operand, pointer)], pointer)
    if not isinstance(operand, list):
        raise _refusal(pointer, "a list is wanted")
    found = tests.of(name, "in", [_scalar(each, pointer) for each in operand], pointer)
    return found if function == "in" else negated(found)


def _scalar(given: Any, pointer: str) -> Any:
    if isinstance(given, dict) and set(given) == {"$date"}:
        return _scalar(given["$date"], pointer)
    if isinstance(given, dict | list):
        raise _refusal(pointer, "one value is wanted")
    return given


def read_pipeline(tests: Comparing, written: str, pointer: str) -> Pipeline:
    """What an `_aggregate` asks for. Raises Invalid."""
    stages = read_json(written, pointer)
    if not isinstance(stages, list) or not 0 < len(stages) <= MOST_STAGES:
        raise _refusal(pointer, f"a list of 1 to {MOST_STAGES} stages is wanted")
    found = Pipeline()
    for at, stage in enumerate(stages):
        here = f"{pointer}/{at}"
        if not isinstance(stage, dict) or len(stage) != 1:
            raise _refusal(here, "a stage is an object with one member")
        ((name, given),) = stage.items()
        if name not in _STAGES:
            raise _refusal(here, f"{name} is not taken; there are {', '.join(_STAGES)}")
        _check_order(found, name, f"{here}/{escape_pointer(name)}")
        _STAGES[name](found, tests, given, f"{here}/{escape_pointer(name)}")
    return found


def _check_order(found: Pipeline, name: str, pointer: str) -> None:
    """Raises Invalid for a stage that would mean another thing at its place."""
    begun = bool(found.sort or found.project or found.skip) or found.limit is not None
    late = found.keys is not None or begun
    if (name in ("$match", "$group") and late) or (found.project and name == "$sort"):
        raise _refusal(pointer, "the order is $match, $group, $sort, $skip, $limit, $project")
    if (name in ("$sort", "$skip") and found.limit is not None) or (name == "$sort" and begun):
        raise _refusal(pointer, "the order is $match, $group, $sort, $skip, $limit, $project")


def _match(found: Pipeline, tests: Comparing, given: Any, pointer: str) -> None:
    found.condition = all_of(found.condition, read_document(tests, given, pointer))


def _group(found: Pipeline, tests: Comparing, given: Any, pointer: str) -> None:
    if not isinstance(given, dict) or "_id" not in given:
        raise _refusal(pointer, "an object with an _id is wanted")
    by = given["_id"]
    found.single = not isinstance(by, dict)
    named = by if isinstance(by, dict) else {} if by is None else {"_id": by}
    found.keys = {name: _field(each, f"{pointer}/_id") for name, each in named.items()}
    for name, each in given.items():
        if name != "_id":
            found.measures[name] = _measured(each, f"{pointer}/{escape_pointer(name)}")


def _measured(given: Any, pointer: str) -> Measured:
    known = ("$sum", "$avg", "$min", "$max")
    if not isinstance(given, dict) or len(given) != 1 or not set(given) <= set(known):
        raise _refusal(pointer, f"an object with one of {', '.join(known)} is wanted")
    ((function, of),) = given.items()
    if isinstance(of, int | float) and not isinstance(of, bool):
        return Measured(function, of)
    return Measured(function, _field(of, pointer))


def _field(given: Any, pointer: str) -> str:
    if not isinstance(given, str) or not given.startswith("$") or len(given) < 2:
        raise _refusal(pointer, "the name of a field is wanted, as in $status")
    return given[1:]


def _sort(found: Pipeline, tests: Comparing, given: Any, pointer: str) -> None:
    found.sort = read_sort(given, pointer)


def read_sort(given: Any, pointer: str) -> list[tuple[str, bool]]:
    """The order of `{"name": 1, "start": -1}`. Raises Invalid."""
    if not isinstance(given, dict) or not given:
        raise _refusal(pointer, "an object of fields with 1 or -1 is wanted")
    for name, way in given.items():
        if isinstance(way, bool) or way not in (1, -1):
            raise _refusal(f"{pointer}/{escape_pointer(name)}", "1 or -1 is wanted")
    return [(name, way == -1) for name, way in given.items()]


def _limit(found: Pipeline, tests: Comparing, given: Any, pointer: str) -> None:
    found.limit = min(_count(given, 1, pointer), found.limit or 2**31)


def _skip(found: Pipeline, tests: Comparing, given: Any, pointer: str) -> None:
    found.skip += _count(given, 0, pointer)


def _count(given: Any, least: int, pointer: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given < 2**31:
        raise _refusal(pointer, f"a whole number from {least} on is wanted")
    return given


def _project(found: Pipeline, tests: Comparing, given: Any, pointer: str) -> None:
    if not isinstance(given, dict) or not given:
        raise _refusal(pointer, "an object of fields with 1 or 0 is wanted")
    for name, shown in given.items():
        if shown not in (0, 1):
            raise _refusal(f"{pointer}/{escape_pointer(name)}", "1 or 0 is wanted")
    kinds = {bool(shown) for name, shown in given.items() if name != "_id"}
    if len(kinds) > 1:
        raise _refusal(pointer, "either the fields to show or the fields to leave out")
    found.project = {name: bool(shown) for name, shown in given.items()}


_STAGES: Mapping[str, Any] = {
    "$match": _match,
    "$group": _group,
    "$sort": _sort,
    "$skip": _skip,
    "$limit": _limit,
    "$project": _project,
}


def _refusal(pointer: str, detail: str) -> Invalid:
    return Invalid("the query cannot be used", Mistake(pointer, detail))


def names_in(written: str) -> Sequence[str]:
    """The names of a list with commas."""
    return [name.strip() for name in written.split(",") if name.strip()]
