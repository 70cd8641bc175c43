"""How this API says no: a reason phrase as plain text, and what it was in a header."""

import re
from http import HTTPStatus

from flask import Response

from api.toolkit.problems import Problem

ERROR = "x-odsl-error"
_LONGEST = 1000  # characters of a header
_UNSAFE = re.compile(r"[^\x20-\x7e\xa0-\xff]+")  # what a header cannot have


def render(problem: Problem) -> Response:
    """The problem as this API shows it."""
    status = problem.status
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:  # which it does not have
        status = HTTPStatus.BAD_REQUEST
    reply = Response(status.phrase, status, content_type="text/plain")
    reply.headers.extend(problem.headers or {})
    reply.headers[ERROR] = f"[{code_of(status)}] {_told(problem)}"
    return reply


def code_of(status: HTTPStatus) -> int:
    """The number in brackets: 1004 for 404, 5000 for 500."""
    return 1000 + status - 400 if status < 500 else 5000 + status - 500


def _told(problem: Problem) -> str:
    where = "; ".join(f"{each.pointer} {each.detail}" for each in problem.mistakes)
    text = f"{problem.detail}: {where}" if where else problem.detail
    return _UNSAFE.sub("?", text)[:_LONGEST]
