"""Error handlers: every exception becomes a `Problem`, rendered as RFC 9457 or by a contract."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Flask, Response, g, jsonify, request
from gunicorn.http.errors import ParseException
from sqlalchemy.exc import DBAPIError, TimeoutError
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed

from config.http_statuses import TITLES, code_of
from orchestrator import errors
from orchestrator.db.engine import is_transient, is_unavailable
from orchestrator.json_values import escape_pointer

STATUS_OF_ERROR: Mapping[type[Exception], HTTPStatus] = {
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
UNKNOWN_ERROR = "unknown"  # the message of an unknown member starts with it
_RETRY_AFTER = "2"  # seconds
_NOT_FOUND = "there is nothing at this address"  # werkzeug's text is for people with a browser

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An error, before it is rendered as a response."""

    status: HTTPStatus
    code: str
    detail: str
    mistakes: tuple[errors.Mistake, ...] = ()
    headers: Mapping[str, str] | None = None


def problem_of(error: errors.OrchestratorError) -> Problem:
    """The problem of an error of the core."""
    families = (STATUS_OF_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_OF_ERROR)
    status = next(families, HTTPStatus.INTERNAL_SERVER_ERROR)
    mistakes = error.mistakes if isinstance(error, errors.Invalid) else ()
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="orchestrator"'
    # In doubt, the client must check first; Retry-After would make it repeat blindly.
    if status == HTTPStatus.SERVICE_UNAVAILABLE and not isinstance(error, errors.InDoubt):
        headers["Retry-After"] = _RETRY_AFTER
    return Problem(
        status=status, code=error.code, detail=str(error), mistakes=mistakes, headers=headers
    )


def problem_of_http(error: HTTPException) -> Problem:
    """The problem of an error that Flask, Werkzeug or webargs raised."""
    status = HTTPStatus(error.code or 500)
    data = getattr(error, "data", None) or {}
    mistakes = errors.first_mistakes(_mistakes(data.get("messages", {})))
    detail = _NOT_FOUND if status == HTTPStatus.NOT_FOUND else error.description or TITLES[status]
    if mistakes:
        detail = "the request does not have the right form"
    if isinstance(error, ClientDisconnected):
        detail = "the body ends too soon: send as much as Content-Length or the chunks say"
    headers = dict(error.get_headers())  # Allow, Retry-After
    headers.pop("Content-Type", None)
    if isinstance(error, MethodNotAllowed):
        methods = sorted({*(error.valid_methods or ())} - {"HEAD", "OPTIONS"})
        detail = f"{request.method} is not taken here; use {' or '.join(methods)}"
    return Problem(
        status=status, code=code_of(status), detail=detail, mistakes=mistakes, headers=headers
    )


def respond(body: Mapping[str, Any], status: int, problem: Problem) -> Response:
    """An error as JSON, with the headers of its problem."""
    response = jsonify(body)
    response.status_code = status
    response.headers.extend(problem.headers or {})
    return response


def problem_json(problem: Problem) -> Response:
    """The problem as `application/problem+json`."""
    body: dict[str, Any] = {
        "type": f"urn:orchestrator:problem:{problem.code}",
        "title": TITLES[problem.status],
        "status": problem.status.value,
        "code": problem.code,
        "detail": problem.detail,
    }
    if problem.mistakes:
        body["errors"] = [vars(mistake) for mistake in problem.mistakes]
    response = respond(body, problem.status, problem)
    response.content_type = "application/problem+json"
    return response


def install_problems(
    target: Flask | Blueprint, render: Callable[[Problem], Response] = problem_json
) -> None:
    """Handle every error under `target`; a contract passes its own `render`."""

    def database(error: Exception) -> Response:
        if isinstance(error, DBAPIError) and not is_transient(error):
            return unexpected(error)
        if isinstance(error, DBAPIError) and is_unavailable(error):
            event, detail = "postgres unavailable", "the database does not answer"
        else:
            event, detail = "postgres request failed", "the database cannot do this now"
        _log.warning(event, extra={"error": str(error)})
        return render(problem_of(errors.Unavailable(f"{detail}; try again")))

    def unexpected(error: Exception) -> Response:
        _log.exception("unexpected error", exc_info=error)
        detail = "this is a mistake of ours"
        if not g.get("committed"):  # set by `transient_retry`
            detail += "; nothing was written"
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return render(Problem(status=status, code="internal", detail=detail))

    def broken_body(error: Exception) -> Response:
        detail = f"the chunked body cannot be read: {error}"
        return render(Problem(status=HTTPStatus.BAD_REQUEST, code="bad_request", detail=detail))

    def too_deep(error: RecursionError) -> Response:
        detail = "the body is nested too deeply"
        mistakes = (errors.Mistake("/", detail),)
        status = HTTPStatus.BAD_REQUEST
        return render(Problem(status=status, code="bad_request", detail=detail, mistakes=mistakes))

    target.register_error_handler(errors.OrchestratorError, lambda error: render(problem_of(error)))
    target.register_error_handler(HTTPException, lambda error: render(problem_of_http(error)))
    target.register_error_handler(DBAPIError, database)
    target.register_error_handler(TimeoutError, database)  # of the connection pool
    target.register_error_handler(RecursionError, too_deep)
    target.register_error_handler(ParseException, broken_body)  # of gunicorn, as the body is read
    target.register_error_handler(Exception, unexpected)


def _mistakes(messages: Mapping[str, Any]) -> Iterator[errors.Mistake]:
    """webargs' messages by location as mistakes; pointers into the body start at its root."""
    for location, inner in messages.items():
        yield from _nested_mistakes(inner, "" if location.startswith("json") else f"/{location}")


def _nested_mistakes(messages: Any, pointer: str) -> Iterator[errors.Mistake]:
    if isinstance(messages, Mapping):
        for key, inner in messages.items():
            unknown = isinstance(inner, list) and str(inner[0]).startswith(UNKNOWN_ERROR)
            of_object = key == "_schema" and not unknown
            yield from _nested_mistakes(
                inner, pointer if of_object else f"{pointer}/{escape_pointer(key)}"
            )
    elif isinstance(messages, list | tuple):
        for inner in messages:
            yield from _nested_mistakes(inner, pointer)
    else:
        yield errors.Mistake(pointer or "/", str(messages))
