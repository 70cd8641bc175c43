"""How it says no: `detail` is a list of mistakes with 422 and a text with everything else."""

from http import HTTPStatus
from typing import Any

from flask import Response, jsonify, request

from api.contracts.virtuousai.messages import kind_of
from api.problems import Problem

_PLACES = ("query", "path")
_MISSED = {"run_id": "Automation run not found", "automation_id": "Automation not found"}


def render(problem: Problem) -> Response:
    """The problem as this API shows it."""
    mistakes = [_mistake(each.pointer, each.detail) for each in problem.mistakes]
    status = HTTPStatus.UNPROCESSABLE_ENTITY if mistakes else problem.status
    if status == HTTPStatus.UNPROCESSABLE_ENTITY and not mistakes:
        mistakes = [_mistake("/", problem.detail)]
    reply = jsonify({"detail": mistakes or _told(problem)})
    reply.status_code = status
    reply.headers.extend(problem.headers or {})
    return reply


def _told(problem: Problem) -> str:
    if problem.status == HTTPStatus.UNAUTHORIZED:
        return "Not authenticated"
    if problem.status == HTTPStatus.NOT_FOUND:
        named = (_MISSED[name] for name in request.view_args or () if name in _MISSED)
        return next(named, problem.detail)
    return problem.detail


def _mistake(pointer: str, detail: str) -> dict[str, Any]:
    return {"loc": _location(pointer), "msg": detail, "type": kind_of(detail)}


def _location(pointer: str) -> list[str | int]:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:] if part]
    if parts[:1] == ["headers"]:
        return ["header", *(part.lower() for part in parts[1:])]
    place = [] if parts[:1] and parts[0] in _PLACES else ["body"]
    return [*place, *(int(part) if part.isdecimal() and part.isascii() else part for part in parts)]
