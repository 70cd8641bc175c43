"""What a request for executions asks for, read from its query, its body or both."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from flask import request

from api.contracts.opendatadsl import query_json, query_text
from api.contracts.opendatadsl.query_json import Pipeline
from api.contracts.opendatadsl.query_tests import Comparing
from api.contracts.opendatadsl.vocabulary import RUN, Wire, wire_of
from orchestrator.errors import Invalid, Mistake
from orchestrator.models import PLAIN_RUN
from orchestrator.search.conditions import Condition, Field, all_of, one_of
from orchestrator.search.queries import SearchOrder

DEFAULT, MOST = 100, 10_000  # executions of one answer
_LONGEST = 64 * 1024  # bytes of a query that is sent as a body
_MOST_PAIRS = 200
_LONGEST_NAME = 100  # characters of an environment
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_FORM = "application/x-www-form-urlencoded"
Pairs = Sequence[tuple[str, str]]


@dataclass
class Asked:
    """One search for executions."""

    condition: Condition = field(default_factory=all_of)
    limit: int = DEFAULT
    skip: int = 0
    order: Sequence[SearchOrder] = ()
    project: Sequence[str] = ()  # empty: all
    distinct: str | None = None
    fieldinfo: str | None = None
    pipeline: Pipeline | None = None


def read(pairs: Pairs, *, detailed: bool) -> Asked:
    """What the parameters ask for. Raises Invalid."""
    asked, tests = Asked(), Comparing(detailed)
    conditions = [one_of(Field("environment"), [environment()])]
    for name, written in pairs:
        pointer = f"/query/{name}"
        if name in _FILTERS:
            conditions.append(_FILTERS[name](tests, written, pointer))
        elif name in _SETTINGS:
            _SETTINGS[name](asked, written, pointer)
        elif name == "_aggregate":
            asked.pipeline = query_json.read_pipeline(tests, written, pointer)
        elif name.startswith("_") and name != "_id":
            known = ", ".join(sorted({*_FILTERS, *_SETTINGS, "_aggregate"}))
            raise _refusal(pointer, f"not known; there are {known}")
        else:
            conditions.append(query_text.read_value(tests, name, written, pointer))
    asked.condition = all_of(*conditions)
    asked.order = asked.order or [SearchOrder(Field("started_at"), descending=True)]
    return asked


def read_page(pairs: Pairs) -> Asked:
    """Which page the parameters ask for; the others do not matter. Raises Invalid."""
    asked = Asked()
    for name, written in pairs:
        if name in ("_limit", "_skip"):
            _SETTINGS[name](asked, written, f"/query/{name}")
    return asked


def pairs() -> Pairs:
    """The parameters, also those that a client moved into a form-encoded body. Raises Invalid."""
    given = list(request.args.items(multi=True))
    length = request.content_length or 0
    if length > _LONGEST or len(request.query_string) > _LONGEST:
        raise _refusal("/query", f"the query has at most {_LONGEST:,} bytes")
    if length and request.mimetype == _FORM:
        given += _in_body(request.get_data(cache=True))
    if len(given) > _MOST_PAIRS:
        raise _refusal("/query", f"{len(given)} parameters are too many; {_MOST_PAIRS} are taken")
    for name, written in given:
        if "\x00" in name or "\x00" in written:
            raise _refusal("/query", "a parameter has the character U+0000")
    return given


def _in_body(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_PAIRS)
    except ValueError:
        raise _refusal("/", "the body is not a form-encoded query") from None


def environment() -> str:
    """The environment that is asked about, or for. Raises Invalid."""
    name = request.headers.get("x-odsl-environment", "").strip() or PLAIN_RUN
    if len(name) > _LONGEST_NAME or not name.isprintable():
        detail = f"a name of at most {_LONGEST_NAME} characters is wanted"
        raise _refusal("/headers/x-odsl-environment", detail)
    return name


def number(written: str, pointer: str, *, least: int, most: int) -> int:
    """A whole number. Raises Invalid."""
    if not _NUMBER.fullmatch(written) or not least <= int(written) <= most:
        raise _refusal(pointer, f"a whole number from {least} to {most:,} is wanted")
    return int(written)


def shown_field(name: str, pointer: str, *, detailed: bool = False) -> Wire:
    """A field that a list can be sorted or grouped by. Raises Invalid."""
    wire = wire_of(name, detailed=detailed)
    if wire is None or wire.of is not None:
        raise _refusal(pointer, f"not a field with one value; there are {', '.join(RUN)}")
    return wire


def order_of(names: Iterable[tuple[str, bool]], pointer: str) -> list[SearchOrder]:
    """The order by these fields. Raises Invalid."""
    wires = [(shown_field(name, pointer), descending) for name, descending in names]
    return [SearchOrder(wire.time or wire.text, descending) for wire, descending in wires]


def _limit(asked: Asked, written: str, pointer: str) -> None:
    limit = number(written, pointer, least=-1, most=2**31)
    asked.limit = MOST if limit < 0 else min(limit, MOST)


def _skip(asked: Asked, written: str, pointer: str) -> None:
    asked.skip = number(written, pointer, least=0, most=2**31)


def _sort(asked: Asked, written: str, pointer: str) -> None:
    if written.lstrip().startswith("{"):
        names = query_json.read_sort(query_json.read_json(written, pointer), pointer)
    else:
        words = query_json.names_in(written)
        names = [(word.lstrip("+-"), word.startswith("-")) for word in words]
    asked.order = order_of(names, pointer)


def _project(asked: Asked, written: str, pointer: str) -> None:
    asked.project = query_json.names_in(written)


def _distinct(asked: Asked, written: str, pointer: str) -> None:
    shown_field(written, pointer)
    asked.distinct = written


def _fieldinfo(asked: Asked, written: str, pointer: str) -> None:
    shown_field(written, pointer)
    asked.fieldinfo = written


def _filter(tests: Comparing, written: str, pointer: str) -> Condition:
    if written.lstrip().startswith("{"):
        return query_json.read_document(tests, query_json.read_json(written, pointer), pointer)
    return query_text.read_filter(tests, written, pointer)


_FILTERS: dict[str, Callable[[Comparing, str, str], Condition]] = {
    "_filter": _filter,
    "_search": query_text.read_search,
}
_SETTINGS: dict[str, Callable[[Asked, str, str], None]] = {
    "_limit": _limit,
    "_skip": _skip,
    "_sort": _sort,
    "_project": _project,
    "_distinct": _distinct,
    "_fieldinfo": _fieldinfo,
}


def _refusal(pointer: str, detail: str) -> Invalid:
    return Invalid("the query cannot be used", Mistake(pointer, detail))
