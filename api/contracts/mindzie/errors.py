"""Render errors as the published clients read them, with the id of the request."""

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

from flask import Response, request
from marshmallow import fields, missing

from api.contracts.mindzie.fields import Moment, ResponseSchema
from api.contracts.mindzie.vocabulary import STATES
from api.toolkit.context import request_id
from api.toolkit.problems import Problem, problem_of, respond
from api.toolkit.wire import computed, described, lines_of, optional
from config.http_statuses import code_of
from orchestrator.errors import Conflict
from orchestrator.models import Run

_INVALID = HTTPStatus.UNPROCESSABLE_ENTITY  # published as 400
_MAX_LINES = 3  # mistakes in the sentence; all are in `details`
_NOT_SERVED = (
    "there is nothing at this address: of mindzie's API this server has the execution jobs"
)


class NotInThisState(Conflict):
    """The status of a job does not allow the request."""

    def __init__(self, code: str, run: Run) -> None:
        self.code, self.status = code, STATES[run.state]
        when = "is still" if self.status in ("Queued", "Running") else "has already"
        super().__init__(f"The job {when} {self.status.lower()}")


def _job_id(_: Any) -> Any:
    ids = request.view_args or {}
    job_id = ids.get("job_id", ids.get("execution_id"))
    return str(job_id) if isinstance(job_id, UUID) else missing


class Refusal(ResponseSchema):
    """Why a request was refused; the published SDK raises `error` as its message."""

    error = described(fields.String, "why, in a sentence")
    code = described(fields.String, "stays the same for the same reason")
    details = described(fields.Dict, "errors with field and message, or status")
    timestamp = computed(Moment(), lambda _: datetime.now(UTC))
    request_id = computed(fields.String, lambda _: request_id(), "also in the header X-Request-Id")
    job_id = optional(computed(fields.String, _job_id, "of the address, when it has one"))


_REFUSAL = Refusal()


def render(problem: Problem) -> Response:
    """The problem in this API's format."""
    mistakes = [{"field": each.pointer, "message": each.detail} for each in problem.mistakes]
    return _respond(problem, {"errors": mistakes} if mistakes else {})


def refuse(error: NotInThisState) -> Response:
    """The error, with the status of the job."""
    return _respond(problem_of(error), {"status": error.status})


def finish(response: Response) -> Response:
    """Set the header with the request's id."""
    response.headers["X-Request-Id"] = request_id()
    return response


def _respond(problem: Problem, details: Mapping[str, Any]) -> Response:
    status = HTTPStatus.BAD_REQUEST if problem.status == _INVALID else problem.status
    code = "invalid" if problem.code == code_of(_INVALID) else problem.code
    refusal = {"error": _sentence(problem), "code": code, "details": details}
    return respond(_REFUSAL.dump(refusal), status, problem)


def _sentence(problem: Problem) -> str:
    """What is wrong, with the first mistakes: the published SDK shows nothing else."""
    if problem.status == HTTPStatus.NOT_FOUND and request.url_rule is None:
        return _NOT_SERVED
    lines = lines_of(problem)
    more = [f"and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
    return ": ".join([problem.detail, *filter(None, ["; ".join(lines[:_MAX_LINES] + more)])])
