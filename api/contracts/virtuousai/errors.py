"""How it says no: `detail` is a list of mistakes with 422 and a text with everything else."""

from http import HTTPStatus
from typing import Any

from flask import Response, jsonify, request

from api.contracts.virtuousai.error_messages import kind_of
from api.toolkit.problems import Problem

# It publishes no 400: whatever is wrong with a request is told as a list.
_OF_THE_REQUEST = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_MISSED = {"run_id": "Automation run not found", "automation_id": "Automation not found"}


def render(problem: Problem) -> Response:
    """The problem as this API shows it."""
    if problem.status in _OF_THE_REQUEST:
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        reply = jsonify({"detail": _mistakes(problem)})
    else:
        status = problem.status
        reply = jsonify({"detail": _told(problem)})
    reply.status_code = status
    reply.headers.extend(problem.headers or {})
    return reply


def _told(problem: Problem) -> str:
    if problem.status == HTTPStatus.UNAUTHORIZED:
        return "Not authenticated"
    if problem.status == HTTPStatus.NOT_FOUND:
        named = (_MISSED[name] for name in request.view_args or () if name in _MISSED)
        return next(named, problem.detail)
    allowed = ", ".join(sorted((problem.headers or {}).get("Allow", "").split(", ")))
    return f"{problem.detail} Use {allowed}." if allowed else problem.detail


def _mistakes(problem: Problem) -> list[dict[str, Any]]:
    if problem.mistakes:
        found = [(_location(each.pointer), each.detail) for each in problem.mistakes]
    else:
        found = [(place, problem.detail) for place in _unreadable()]
    return [{"loc": place, "msg": told, "type": kind_of(told)} for place, told in found]


def _unreadable() -> list[list[str | int]]:
    """Where in the address there is what nobody can read; the body if nowhere."""
    given = {"path": (request.view_args or {}).items(), "query": request.args.items(multi=True)}
    found: list[list[str | int]] = [
        [part, name]
        for part, pairs in given.items()
        for name, value in pairs
        if "\x00" in f"{name}{value}"
    ]
    return found or [["path" if "\x00" in request.path else "body"]]


def _location(pointer: str) -> list[str | int]:
    """Where a mistake is; `/query/x` is in the query unless it has no x, then in the body."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:] if part]
    places: dict[str, Any] = {
        "path": request.view_args or {},
        "query": request.args,
        "headers": request.headers,
    }
    first, name = (*parts, "", "")[:2]
    if name not in places.get(first, ()):
        return ["body", *_in_body(parts)]
    return ["header", name.lower()] if first == "headers" else [*parts]


def _in_body(parts: list[str]) -> list[str | int]:
    """The way to a value: members by name, items of lists by number."""
    here: Any = request.get_json(force=True, silent=True) if parts else None
    way: list[str | int] = []
    for part in parts:
        key = int(part) if isinstance(here, list) and part.isdecimal() else part
        way.append(key)
        try:
            here = here[key]
        except (TypeError, LookupError):  # what is wrong is that it is not there
            here = None
    return way
