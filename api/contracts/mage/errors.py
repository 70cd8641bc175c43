"""How the API says no: with HTTP 200 most of the time, and an `error` in the body."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response, jsonify, request

from api.contracts.mage.surface import TRIGGERS
from api.toolkit.problems import Problem
from orchestrator.errors import Mistake

_MASK = "********"

# The published types of errors; a core status that is none of them is a problem with a resource.
_TYPES: Mapping[int, tuple[int, str, str | None]] = {
    403: (403, "unauthorized_access", "Unauthorized access."),
    404: (404, "record_not_found", "Record not found."),
    409: (400, "api_resource_error", None),
    422: (400, "record_invalid", None),
}
# Told by HTTP too, whatever was asked for: who is told so tries again, or sends a key.
_REAL = frozenset({401, 429, 500, 503})


def render(problem: Problem) -> Response:
    """The problem as this API shows it: with HTTP 200, unless `_http_error_codes` is given."""
    if request.endpoint in TRIGGERS:
        return _of_trigger(problem)
    status = problem.status.value
    code, kind, message = _typed(problem)
    error: dict[str, Any] = {"code": code, "message": message or problem.detail, "type": kind}
    nowhere = request.routing_exception is not None and status in (404, 405)
    if told := [_line(each) for each in problem.mistakes]:
        error["errors"] = told
    elif nowhere or status == HTTPStatus.FORBIDDEN:
        error["errors"] = [problem.detail]
    plain = bool(request.args.get("_http_error_codes"))
    real = plain or nowhere or status in _REAL
    says_so = real and (plain or status != HTTPStatus.UNAUTHORIZED)
    reply = jsonify({"error": error, "status": code if says_so else 200})
    reply.status_code = code if real else 200
    reply.headers.extend(problem.headers or {})
    return reply


def _typed(problem: Problem) -> tuple[int, str, str | None]:
    """The code, the type and the message of an error."""
    status = problem.status.value
    if status != HTTPStatus.UNAUTHORIZED:
        return _TYPES.get(status, (status, "api_resource_error", None))
    by_key = request.args.get("api_key") or request.headers.get("X-API-KEY")
    token = ("Authorization" in request.headers, "OAUTH-TOKEN" in request.headers)
    if by_key or not (any(token) or "oauth_token" in request.cookies):
        return status, "invalid_api_key", "Invalid API key."
    if "expired" in problem.detail:
        return status, "expired_oauth_token", "Expired OAuth token."
    return status, "invalid_oauth_token", "Invalid OAuth token."


def _of_trigger(problem: Problem) -> Response:
    """The problem as the addresses of triggers show it, which have a form of their own."""
    given = {name: str(value) for name, value in (request.view_args or {}).items()}
    told = [_line(each) for each in problem.mistakes]
    error = {
        "code": 500,
        "errors": told or [problem.detail],
        "exception": problem.detail,
        "message": "; ".join(told) or problem.detail,
    }
    masked = {"token": _MASK} if "token" in given else {}
    reply = jsonify({"error": error, "url_parameters": given | masked})
    reply.status_code = problem.status if problem.status in _REAL else HTTPStatus.OK
    reply.headers.extend(problem.headers or {})
    return reply


def _line(mistake: Mistake) -> str:
    return f"{mistake.pointer}: {mistake.detail}"
