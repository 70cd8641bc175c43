"""Render errors, and the error messages of pydantic.

`detail` is a list of mistakes with 422 and a text with every other status.
"""

from collections.abc import Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from flask import Response, request
from marshmallow import fields

from api.toolkit.problems import Problem, respond
from api.toolkit.wire import WireSchema, described

_NOT_FOUND = {
    "run_id": "Automation run not found",
    "automation_id": "Automation not found",
    "token_id": "Access token not found",
}

Location = Sequence[str | int]


class Message(StrEnum):
    """What pydantic says, by its type of the mistake."""

    MISSING = "Field required"
    UUID_PARSING = "Input should be a valid UUID"
    INT_PARSING = "Input should be a valid integer"
    BOOL_PARSING = "Input should be a valid boolean, unable to interpret input"
    DATETIME_PARSING = "Input should be a valid datetime, as in 2026-04-02T08:00:00Z"
    STRING_TYPE = "Input should be a valid string"
    DICT_TYPE = "Input should be a valid dictionary"
    GREATER_THAN_EQUAL = "Input should be greater than or equal to {min}"
    LESS_THAN_EQUAL = "Input should be less than or equal to {max}"
    STRING_TOO_SHORT = "String should have at least {min} character"
    STRING_TOO_LONG = "String should have at most {max} characters"
    ENUM = "Input should be '{word}'"
    JSON_INVALID = "not JSON"


class Mistake(WireSchema):
    """One thing that is wrong."""

    loc = described(
        fields.List, "where: body, path, query or header, and what", cls_or_instance=fields.Raw()
    )
    msg = described(fields.String, "what would be right")
    type = fields.String()


class Unprocessable(WireSchema):
    """What is wrong with a request."""

    detail = fields.List(fields.Nested(Mistake))


class Refused(WireSchema):
    """Why a request was refused."""

    detail = fields.String()


class Refusal(WireSchema):
    """Why a request was refused."""

    detail = fields.Raw(
        metadata={
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"$ref": "#/components/schemas/Mistake"}},
            ],
            "description": "with 422 a list, else a text",
        }
    )


def render(problem: Problem) -> Response:
    """The problem in this API's format."""
    if problem.status in (400, 422):  # both are published as 422
        return respond({"detail": _mistakes(problem)}, 422, problem)
    return respond({"detail": _message(problem)}, problem.status, problem)


def _message(problem: Problem) -> str:
    if problem.status == HTTPStatus.UNAUTHORIZED:
        return "Not authenticated"
    if problem.status == HTTPStatus.NOT_FOUND:
        messages = (_NOT_FOUND[name] for name in request.view_args or () if name in _NOT_FOUND)
        return next(messages, problem.detail)
    allowed = ", ".join(sorted((problem.headers or {}).get("Allow", "").split(", ")))
    return f"{problem.detail} Use {allowed}." if allowed else problem.detail


def _mistakes(problem: Problem) -> list[dict[str, Any]]:
    places = [(_location(each.pointer), each.detail) for each in problem.mistakes]
    places = places or [(location, problem.detail) for location in _nul_locations()]
    return [{"loc": place, "msg": text, "type": _type_of(text)} for place, text in places]


def _type_of(message: str) -> str:
    kinds = (kind for kind in Message if message.startswith(kind.partition("{")[0]))
    return next((kind.name.lower() for kind in kinds), "value_error")


def _nul_locations() -> list[Location]:
    """The parameters with U+0000 in them; the path or the body if there is none."""
    path, query = (request.view_args or {}).items(), request.args.items(multi=True)
    locations: list[Location] = [
        [part, name]
        for part, pairs in (("path", path), ("query", query))
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
