"""The errors of the API: HTTP 200 for most of them, and an `error` in the body."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response, request

from api.contracts.mage.surface import SESSIONS, TRIGGERS
from api.toolkit.problems import Problem, respond
from api.toolkit.wire import lines_of

_MASK = "********"

# The published types of errors; a core status that is none of them is a problem with a resource.
_TYPES: Mapping[int, tuple[int, str, str | None]] = {
    403: (403, "unauthorized_access", "Unauthorized access."),
    404: (404, "record_not_found", "Record not found."),
    409: (400, "api_resource_error", None),
    422: (400, "record_invalid", None),
}
# Always the status of HTTP, too: clients then retry, or send a key.
_REAL = frozenset({401, 429, 500, 503})


def render(problem: Problem) -> Response:
    """The problem as JSON: with HTTP 200, unless `_http_error_codes` is in the query."""
    if request.endpoint in TRIGGERS:
        return _of_trigger(problem)
    status = problem.status.value
    code, kind, message = _typed(problem)
    if request.endpoint == SESSIONS:  # published with a text of its own
        message = problem.detail
    error: dict[str, Any] = {"code": code, "message": message or problem.detail, "type": kind}
    nowhere = request.routing_exception is not None and status in (404, 405)
    if problem.mistakes:
        error["errors"] = lines_of(problem)
    elif nowhere or status == HTTPStatus.FORBIDDEN:
        error["errors"] = [problem.detail]
    http_codes = bool(request.args.get("_http_error_codes"))
    real = http_codes or nowhere or status in _REAL
    is_reported = real and (http_codes or status != HTTPStatus.UNAUTHORIZED)
    body = {"error": error, "status": code if is_reported else 200}
    return respond(body, code if real else 200, problem)


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
    """The problem in the form of the addresses of triggers."""
    ids = {name: str(value) for name, value in (request.view_args or {}).items()}
    lines = lines_of(problem)
    error = {
        "code": 500,
        "errors": lines or [problem.detail],
        "exception": problem.detail,
        "message": "; ".join(lines) or problem.detail,
    }
    masked = {"token": _MASK} if "token" in ids else {}
    status = problem.status if problem.status in _REAL else HTTPStatus.OK
    return respond({"error": error, "url_parameters": ids | masked}, status, problem)
