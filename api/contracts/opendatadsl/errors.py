"""Render errors: the reason phrase as plain text, the details in a header."""

import re
from http import HTTPStatus

from flask import Response

from api.toolkit.problems import Problem
from config.http_statuses import TITLES
from orchestrator.errors import Invalid, Mistake

ERROR = "x-odsl-error"
_MAX_HEADER = 1000  # characters
_UNSAFE = re.compile(r"[^\x20-\x7e\xa0-\xff]+")  # not allowed in a header


def render(problem: Problem) -> Response:
    """The problem in this API's format; the code in brackets is 1004 for 404, 5000 for 500."""
    status = problem.status
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:  # this API has no 422
        status = HTTPStatus.BAD_REQUEST
    code = 1000 + status - 400 if status < 500 else 5000 + status - 500
    mistakes = "; ".join(f"{each.pointer} {each.detail}" for each in problem.mistakes)
    message = f"{problem.detail}: {mistakes}" if mistakes else problem.detail
    response = Response(TITLES[status], status, content_type="text/plain")
    response.headers.extend(problem.headers or {})
    response.headers[ERROR] = f"[{code}] {_UNSAFE.sub('?', message)[:_MAX_HEADER]}"
    return response


def invalid(pointer: str, detail: str, subject: str = "query") -> Invalid:
    """The error for one mistake in a query."""
    return Invalid(f"the {subject} cannot be used", Mistake(pointer, detail))
