"""Render errors, and the error messages of pydantic.

`detail` is a list of mistakes with 422 and a text with every other status.
"""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from operator import itemgetter
from typing import Any

from flask import Response, request
from marshmallow import Schema, fields

from api.toolkit.problems import Problem, respond
from api.toolkit.wire import WireSchema, computed, described

MISSING = "Field required"
UUID = "Input should be a valid UUID"
INTEGER = "Input should be a valid integer"
MOMENT = "Input should be a valid datetime, as in 2026-04-02T08:00:00Z"
STRING = "Input should be a valid string"
OBJECT = "Input should be a valid dictionary"
TOO_SMALL = "Input should be greater than or equal to {min}"
TOO_LARGE = "Input should be less than or equal to {max}"
TOO_SHORT = "String should have at least {min} character"
TOO_LONG = "String should have at most {max} characters"

_TYPES = (
    (MISSING, "missing"),
    (UUID, "uuid_parsing"),
    (INTEGER, "int_parsing"),
    (MOMENT, "datetime_parsing"),
    (STRING, "string_type"),
    (OBJECT, "dict_type"),
    (TOO_SMALL, "greater_than_equal"),
    (TOO_LARGE, "less_than_equal"),
    (TOO_SHORT, "string_too_short"),
    (TOO_LONG, "string_too_long"),
    ("Input should be '", "enum"),
    ("not JSON", "json_invalid"),
)
_INVALID = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)  # both are published as 422
_NOT_FOUND = {"run_id": "Automation run not found", "automation_id": "Automation not found"}

Location = Sequence[str | int]


def one_of(words: Iterable[str]) -> str:
    """The message where only some words are valid."""
    *others, last = [f"'{word}'" for word in words]
    return f"Input should be {', '.join(others)} or {last}" if others else f"Input should be {last}"


def type_of(message: str) -> str:
    """The pydantic type of a mistake, by its message."""
    types = ((text.partition("{")[0], kind) for text, kind in _TYPES)
    return next((kind for text, kind in types if message.startswith(text)), "value_error")


class Mistake(WireSchema):
    """One thing that is wrong."""

    loc = computed(
        fields.List(
            fields.Raw(),
            metadata={"description": "where: body, path, query or header, and what"},
        ),
        itemgetter(0),
    )
    msg = computed(fields.String, itemgetter(1), "what would be right")
    type = computed(fields.String, lambda mistake: type_of(mistake[1]))


class Unprocessable(WireSchema):
    """What is wrong with a request."""

    detail = fields.List(fields.Nested(Mistake))


class Refused(Schema):
    """Why a request was refused."""

    detail = fields.String()


class Refusal(Schema):
    """Why a request was refused."""

    detail = described(fields.Raw, "with 422 a list of loc, msg and type, else a text")


_UNPROCESSABLE = Unprocessable()


def render(problem: Problem) -> Response:
    """The problem in this API's format."""
    if problem.status in _INVALID:
        body = _UNPROCESSABLE.dump({"detail": _mistakes(problem)})
        return respond(body, HTTPStatus.UNPROCESSABLE_ENTITY, problem)
    return respond({"detail": _message(problem)}, problem.status, problem)


def _message(problem: Problem) -> str:
    if problem.status == HTTPStatus.UNAUTHORIZED:
        return "Not authenticated"
    if problem.status == HTTPStatus.NOT_FOUND:
        messages = (_NOT_FOUND[name] for name in request.view_args or () if name in _NOT_FOUND)
        return next(messages, problem.detail)
    allowed = ", ".join(sorted((problem.headers or {}).get("Allow", "").split(", ")))
    return f"{problem.detail} Use {allowed}." if allowed else problem.detail


def _mistakes(problem: Problem) -> list[tuple[Location, str]]:
    if problem.mistakes:
        return [(_location(each.pointer), each.detail) for each in problem.mistakes]
    return [(location, problem.detail) for location in _nul_locations()]


def _nul_locations() -> list[Location]:
    """The parameters with U+0000 in them; the path or the body if there is none."""
    parameters = {
        "path": (request.view_args or {}).items(),
        "query": request.args.items(multi=True),
    }
    locations: list[Location] = [
        [part, name]
        for part, pairs in parameters.items()
        for name, value in pairs
        if "\x00" in f"{name}{value}"
    ]
    return locations or [["path" if "\x00" in request.path else "body"]]


def _location(pointer: str) -> Location:
    """The location of a pointer; `/query/x` is a member of the body if the query has no x."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:] if part]
    places: dict[str, Any] = {
        "path": request.view_args or {},
        "query": request.args,
        "headers": request.headers,
    }
    first, name = (*parts, "", "")[:2]
    if name not in places.get(first, ()):
        return ["body", *_in_body(parts)]
    return ["header", name.lower()] if first == "headers" else parts


def _in_body(parts: Sequence[str]) -> Location:
    """The path to a value of the body: members by name, items of lists by number."""
    value: Any = request.get_json(force=True, silent=True) if parts else None
    keys: list[str | int] = []
    for part in parts:
        key = int(part) if isinstance(value, list) and part.isdecimal() else part
        keys.append(key)
        try:
            value = value[key]
        except (TypeError, LookupError):  # the mistake is that it is missing
            value = None
    return keys
