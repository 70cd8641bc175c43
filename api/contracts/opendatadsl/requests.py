"""Parse a search for executions from the query, a form-encoded body, or both."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote

from flask import request

from api.contracts.opendatadsl import query_json, query_text
from api.contracts.opendatadsl.errors import invalid
from api.contracts.opendatadsl.query_json import Pipeline
from api.contracts.opendatadsl.query_tests import RAW_PLUS, ConditionBuilder
from api.contracts.opendatadsl.vocabulary import NULL, PLAIN, RUN, Wire, wire_of
from orchestrator.models import PLAIN_RUN
from orchestrator.search.compiler import FieldSelection
from orchestrator.search.conditions import ALWAYS, Condition, Field, all_of, one_of
from orchestrator.search.queries import SearchOrder

DEFAULT_LIMIT, MAX_LIMIT = 100, 10_000  # executions per response
_MAX_BYTES = 64 * 1024  # bytes of a query, also in a body
_MAX_PAIRS = 200
_MAX_ENVIRONMENT = 100  # characters
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_FORM = "application/x-www-form-urlencoded"


@dataclass
class Search:
    """One search for executions."""

    condition: Condition = ALWAYS
    limit: int = DEFAULT_LIMIT
    skip: int = 0
    sort: SearchOrder = ()
    project: Sequence[str] = ()  # empty: all
    distinct: str | None = None
    fieldinfo: str | None = None
    pipeline: Pipeline | None = None
    after: Sequence[Any] | None = None  # the position where the page before ended
    positions: Sequence[Sequence[Any]] = ()  # of the executions of this page, once they are read
    fields: FieldSelection = PLAIN


def read(fields: FieldSelection, names: Mapping[str, str]) -> Search:
    """Parse the parameters; `names` has those of workflows by display name. Raises Invalid."""
    query, builder, parameters = Search(fields=fields), ConditionBuilder(fields, names), pairs()
    conditions = [one_of(Field("environment"), [environment()])]
    for name, text in parameters:
        pointer, plain = f"/query/{name}", text.replace(RAW_PLUS, " ")
        if name in _CONDITIONS:
            conditions.append(_CONDITIONS[name](builder, text, pointer))
        elif name in _SETTINGS:
            setattr(query, name[1:], _SETTINGS[name](plain, pointer))
        elif name == "_aggregate":
            query.pipeline = query_json.read_pipeline(builder, plain, pointer)
        elif name.startswith("_") and name != "_id":
            known = ", ".join(sorted({*_CONDITIONS, *_SETTINGS, "_aggregate"}))
            raise invalid(pointer, f"not known; there are {known}")
        else:
            conditions.append(query_text.read_value(builder, name, text, pointer))
    query.condition = all_of(*conditions)
    query.sort = query.sort or [(Field("started_at"), True)]
    return query


def read_page() -> Search:
    """Parse `_limit`, `_skip` and `_distinct`, ignore other parameters. Raises Invalid."""
    query = Search()
    for name, text in pairs():
        if name in ("_limit", "_skip"):
            setattr(query, name[1:], _SETTINGS[name](text, f"/query/{name}"))
        elif name == "_distinct":
            query.distinct = text
    return query


def pairs() -> list[tuple[str, str]]:
    """The parameters of the query and of a form-encoded body. Raises Invalid.

    A value has `RAW_PLUS` for each `+`.
    """
    length = request.content_length or 0
    if length > _MAX_BYTES or len(request.query_string) > _MAX_BYTES:
        raise invalid("/query", f"the query has at most {_MAX_BYTES:,} bytes")
    parameters = _parse(request.query_string.decode(errors="replace"))
    if length and request.mimetype == _FORM:
        try:
            parameters += _parse(request.get_data(cache=True).decode("ascii"))
        except ValueError:
            raise invalid("/", "the body is not a form-encoded query") from None
    if len(parameters) > _MAX_PAIRS:
        detail = f"{len(parameters)} parameters are too many; {_MAX_PAIRS} are taken"
        raise invalid("/query", detail)
    if any("\x00" in name + text for name, text in parameters):
        raise invalid("/query", "a parameter has the character U+0000")
    return parameters


def _parse(text: str) -> list[tuple[str, str]]:
    pairs = parse_qsl(text.replace("+", quote(RAW_PLUS)), keep_blank_values=True)
    return [(name.replace(RAW_PLUS, " "), value) for name, value in pairs]


def environment() -> str:
    """The environment of the request, from its header. Raises Invalid."""
    name = request.headers.get("x-odsl-environment", "").strip() or PLAIN_RUN
    if len(name) > _MAX_ENVIRONMENT or not name.isprintable():
        detail = f"a name of at most {_MAX_ENVIRONMENT} characters is wanted"
        raise invalid("/headers/x-odsl-environment", detail)
    return name


def number(text: str, pointer: str, *, least: int, most: int) -> int:
    """Parse a whole number. Raises Invalid."""
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise invalid(pointer, f"a whole number from {least} to {most:,} is wanted")
    return int(text)


def single_field(name: str, pointer: str, fields: FieldSelection = PLAIN) -> Wire:
    """A field with one value per run, to sort or group by. Raises Invalid."""
    wire = wire_of(name, fields)
    if wire.of is not None or wire.text == NULL:
        raise invalid(pointer, f"not a field with one value; there are {', '.join(RUN)}")
    return wire


def order_of(names: Iterable[tuple[str, bool]], pointer: str) -> SearchOrder:
    """The order by these fields. Raises Invalid."""
    return [(single_field(name, pointer).value, descends) for name, descends in names]


def _limit(text: str, pointer: str) -> int:
    limit = number(text, pointer, least=-1, most=2**31)
    return MAX_LIMIT if limit < 0 else min(limit, MAX_LIMIT)


def _sort(text: str, pointer: str) -> SearchOrder:
    if text.lstrip().startswith("{"):
        names = query_json.read_sort(query_json.read_json(text, pointer), pointer)
    else:
        words = query_json.split_names(text)
        names = [(word.lstrip("+-"), word.startswith("-")) for word in words]
    return order_of(names, pointer)


def _field_name(text: str, pointer: str) -> str:
    single_field(text, pointer)
    return text


def _filter(builder: ConditionBuilder, text: str, pointer: str) -> Condition:
    if text.lstrip().startswith("{"):
        document = query_json.read_json(text.replace(RAW_PLUS, " "), pointer)
        return query_json.read_document(builder, document, pointer)
    return query_text.read_filter(builder, text, pointer)


_CONDITIONS: dict[str, Callable[[ConditionBuilder, str, str], Condition]] = {
    "_filter": _filter,
    "_search": query_text.read_search,
}
_SETTINGS: dict[str, Callable[[str, str], Any]] = {  # each sets the attribute of this name
    "_limit": _limit,
    "_skip": partial(number, least=0, most=2**31),
    "_sort": _sort,
    "_project": lambda text, _: query_json.split_names(text),
    "_distinct": _field_name,
    "_fieldinfo": _field_name,
}
