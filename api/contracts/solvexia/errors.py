"""The errors of SolveXia's API."""

import logging
from http import HTTPStatus
from uuid import uuid4

from flask import Response

from api.toolkit.problems import Problem, respond
from api.toolkit.wire import lines_of

# The published statuses, and those that no client can be kept from seeing. Every other mistake of
# the client is 400: conflicts of state, bodies and queries of the wrong form.
_STATUSES = {400, 401, 403, 404, 405, 429, 500, 503}

_log = logging.getLogger(__name__)


def render(problem: Problem) -> Response:
    """The problem as JSON; the log has it under the same `supportId`."""
    status = problem.status
    if status not in _STATUSES:
        status = HTTPStatus.BAD_REQUEST if status < 500 else HTTPStatus.INTERNAL_SERVER_ERROR
    message, support_id = "; ".join([problem.detail, *lines_of(problem)]), str(uuid4())
    fields = {"support_id": support_id, "status": status.value, "error": message}
    _log.info("request refused", extra=fields)
    return respond({"message": message, "supportId": support_id}, status, problem)
