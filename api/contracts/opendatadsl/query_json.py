"""The query language as JSON: filter documents and aggregation pipelines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.contracts.opendatadsl.errors import invalid
from api.contracts.opendatadsl.query_tests import ConditionBuilder
from api.contracts.opendatadsl.query_text import check_size
from orchestrator.json_values import escape_pointer, find_unstorable, load_json
from orchestrator.search.conditions import ALWAYS, Condition, all_of, any_of, negated

MAX_STAGES = 20
MAX_DEPTH = 20  # of nested documents
Accumulator = tuple[str, float | str]  # the function, and a number or the name of a field
_STAGES = ("$match", "$group", "$sort", "$skip", "$limit", "$project")
_ACCUMULATORS = ("$sum", "$avg", "$min", "$max")

_JUNCTIONS: Mapping[str, Callable[..., Condition]] = {
    "$and": all_of,
    "$or": any_of,
    "$nor": lambda *parts: negated(any_of(*parts)),
}
_OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$regex", "$exists")


@dataclass
class Pipeline:
    """A parsed `_aggregate`."""

    condition: Condition = ALWAYS
    keys: Mapping[str, str] | None = None  # the fields to group by, by their name in `_id`
    single: bool = True  # the `_id` of a group is a value, not an object
    accumulators: dict[str, Accumulator] = field(default_factory=dict)
    sort: list[tuple[str, bool]] = field(default_factory=list)  # name, descending
    limit: int | None = None
    skip: int = 0
    project: dict[str, bool] | None = None


def read_json(text: str, pointer: str) -> Any:
    """The JSON of a parameter. Raises Invalid."""
    check_size(text, pointer)
    try:
        document = load_json(text)
    except ValueError as error:
        raise invalid(pointer, f"not JSON: {error}") from None
    except RecursionError:
        raise invalid(pointer, "nested too deeply") from None
    if mistake := find_unstorable(document):
        raise invalid(f"{pointer}{mistake.pointer}", mistake.detail)
    return document


def read_document(
    builder: ConditionBuilder, document: Any, pointer: str, depth: int = 0
) -> Condition:
    """The condition of a filter document. Raises Invalid."""
    if not isinstance(document, dict):
        raise invalid(pointer, "an object of fields is wanted")
    if depth > MAX_DEPTH:
        raise invalid(pointer, f"documents go at most {MAX_DEPTH} deep")
    parts = []
    for name, value in document.items():
        here = f"{pointer}/{escape_pointer(name)}"
        if name in _JUNCTIONS:
            if not isinstance(value, list) or not value:
                raise invalid(here, "a list of documents is wanted")
            parts.append(
                _JUNCTIONS[name](*(read_document(builder, item, here, depth + 1) for item in value))
            )
        elif name.startswith("$"):
            raise invalid(here, f"not taken; there are {', '.join(_JUNCTIONS)}")
        else:
            parts.append(_read_field(builder, name, value, here))
    return all_of(*parts)


def _read_field(builder: ConditionBuilder, name: str, value: Any, pointer: str) -> Condition:
    if not isinstance(value, dict):
        return builder.build(name, "eq", [_scalar(value, pointer)], pointer)
    ignores = value.get("$options") == "i"
    parts = []
    for operator, operand in value.items():
        here = f"{pointer}/{escape_pointer(operator)}"
        if operator == "$not":
            parts.append(negated(_read_field(builder, name, operand, here)))
        elif operator in _OPERATORS:
            function = "iregex" if operator == "$regex" and ignores else operator[1:]
            parts.append(builder.build(name, function, _operands(function, operand, here), here))
        elif operator != "$options":
            raise invalid(here, f"not taken; there are {', '.join(_OPERATORS)}")
    return all_of(*parts)


def _operands(function: str, operand: Any, pointer: str) -> list[Any]:
    if function not in ("in", "nin"):
        return [_scalar(operand, pointer)]
    if not isinstance(operand, list):
        raise invalid(pointer, "a list is wanted")
    return [_scalar(item, pointer) for item in operand]


def _scalar(value: Any, pointer: str) -> Any:
    if isinstance(value, dict) and set(value) == {"$date"}:
        return _scalar(value["$date"], pointer)
    if isinstance(value, dict | list):
        raise invalid(pointer, "one value is wanted")
    return value


def read_pipeline(builder: ConditionBuilder, text: str, pointer: str) -> Pipeline:
    """Parse an `_aggregate`. Raises Invalid."""
    stages = read_json(text, pointer)
    if not isinstance(stages, list) or not 0 < len(stages) <= MAX_STAGES:
        raise invalid(pointer, f"a list of 1 to {MAX_STAGES} stages is wanted")
    pipeline = Pipeline()
    for at, stage in enumerate(stages):
        here = f"{pointer}/{at}"
        if not isinstance(stage, dict) or len(stage) != 1:
            raise invalid(here, "a stage is an object with one member")
        ((name, value),) = stage.items()
        if name not in _STAGES:
            raise invalid(here, f"{name} is not taken; there are {', '.join(_STAGES)}")
        here = f"{here}/{escape_pointer(name)}"
        _check_order(pipeline, name, here)
        _add_stage(pipeline, builder, name, value, here)
    return pipeline


def _add_stage(
    pipeline: Pipeline, builder: ConditionBuilder, name: str, value: Any, pointer: str
) -> None:
    match name:
        case "$match":
            condition = read_document(builder, value, pointer)
            pipeline.condition = all_of(pipeline.condition, condition)
        case "$group":
            _group(pipeline, value, pointer)
        case "$sort":
            pipeline.sort = read_sort(value, pointer)
        case "$skip":
            pipeline.skip += _count(value, 0, pointer)
        case "$limit":
            pipeline.limit = min(_count(value, 1, pointer), pipeline.limit or 2**31)
        case "$project":
            pipeline.project = _project(value, pointer)


def _check_order(pipeline: Pipeline, name: str, pointer: str) -> None:
    """Raises Invalid for a stage out of order: a pipeline runs in one fixed order."""
    limited = pipeline.limit is not None
    sorted_or_cut = bool(pipeline.sort or pipeline.project or pipeline.skip) or limited
    if (
        (name in ("$match", "$group") and (pipeline.keys is not None or sorted_or_cut))
        or (name == "$sort" and sorted_or_cut)
        or (name == "$skip" and limited)
    ):
        raise invalid(pointer, "the order is $match, $group, $sort, $skip, $limit, $project")


def _group(pipeline: Pipeline, value: Any, pointer: str) -> None:
    if not isinstance(value, dict) or "_id" not in value:
        raise invalid(pointer, "an object with an _id is wanted")
    fields = {} if value["_id"] is None else value["_id"]
    pipeline.single = not isinstance(value["_id"], dict)
    if not isinstance(fields, dict):
        fields = {"_id": fields}
    pipeline.keys = {name: _field(item, f"{pointer}/_id") for name, item in fields.items()}
    for name, item in value.items():
        if name != "_id":
            pipeline.accumulators[name] = _accumulator(item, f"{pointer}/{escape_pointer(name)}")


def _accumulator(value: Any, pointer: str) -> Accumulator:
    if not isinstance(value, dict) or len(value) != 1 or not set(value) <= set(_ACCUMULATORS):
        raise invalid(pointer, f"an object with one of {', '.join(_ACCUMULATORS)} is wanted")
    ((function, of),) = value.items()
    if isinstance(of, int | float) and not isinstance(of, bool):
        return function, of
    return function, _field(of, pointer)


def _field(value: Any, pointer: str) -> str:
    if not isinstance(value, str) or not value.startswith("$") or len(value) < 2:
        raise invalid(pointer, "the name of a field is wanted, as in $status")
    return value[1:]


def read_sort(value: Any, pointer: str) -> list[tuple[str, bool]]:
    """The order of `{"name": 1, "start": -1}`. Raises Invalid."""
    if not isinstance(value, dict) or not value:
        raise invalid(pointer, "an object of fields with 1 or -1 is wanted")
    for name, direction in value.items():
        if isinstance(direction, bool) or direction not in (1, -1):
            raise invalid(f"{pointer}/{escape_pointer(name)}", "1 or -1 is wanted")
    return [(name, direction == -1) for name, direction in value.items()]


def _count(value: Any, least: int, pointer: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise invalid(pointer, f"a whole number from {least} on is wanted")
    return value


def _project(value: Any, pointer: str) -> dict[str, bool]:
    if not isinstance(value, dict) or not value:
        raise invalid(pointer, "an object of fields with 1 or 0 is wanted")
    for name, included in value.items():
        if included not in (0, 1):
            raise invalid(f"{pointer}/{escape_pointer(name)}", "1 or 0 is wanted")
    kinds = {bool(included) for name, included in value.items() if name != "_id"}
    if len(kinds) > 1:
        raise invalid(pointer, "either the fields to show or the fields to leave out")
    return {name: bool(included) for name, included in value.items()}


def split_names(text: str) -> Sequence[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]
