"""How this API says no, and which request it was."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

from flask import Response, g, jsonify, request

from api.contracts.mindzie.responses import Refusal
from api.contracts.mindzie.vocabulary import STATES
from api.toolkit.problems import Problem, problem_of
from orchestrator.errors import Conflict
from orchestrator.models import Run

_GIVEN = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_PARAMS = re.compile(r"^/params(?=/|$)")  # as the core calls them
_CALLED = {"retry": "/updatedParameters"}  # here, by address
_REFUSAL = Refusal()
_INVALID = HTTPStatus.UNPROCESSABLE_ENTITY  # a status that this API does not have


class NotInThisState(Conflict):
    """A job is in a status that does not allow this."""

    def __init__(self, code: str, run: Run) -> None:
        self.code, self.status = code, STATES[run.state]
        told = "is still" if self.status in ("Queued", "Running") else "has already"
        super().__init__(f"The job {told} {self.status.lower()}")


def render(problem: Problem) -> Response:
    """The problem in the envelope of this API."""
    called = _CALLED.get((request.endpoint or "").rpartition(".")[2], "/parameters")
    mistakes = [
        {"field": _PARAMS.sub(called, each.pointer), "message": each.detail}
        for each in problem.mistakes
    ]
    return _enveloped(problem, {"errors": mistakes} if mistakes else {})


def refuse(error: NotInThisState) -> Response:
    """The same, with the status that the job is in."""
    return _enveloped(problem_of(error), {"status": error.status})


def request_id() -> str:
    """The id of this request: its own, or one that we make."""
    if "request_id" not in g:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _GIVEN.fullmatch(given) else f"req_{uuid4().hex[:12]}"
    return str(g.request_id)


def finish(answer: Response) -> Response:
    """Put the request's id on the answer."""
    answer.headers["X-Request-Id"] = request_id()
    return answer


def _enveloped(problem: Problem, details: Mapping[str, Any]) -> Response:
    told = {
        "code": "invalid" if problem.code == _INVALID.name.lower() else problem.code,
        "message": problem.detail,
        "details": details,
        "timestamp": datetime.now(UTC),
        "request_id": request_id(),
    }
    job_id = (request.view_args or {}).get("job_id")
    known = {"job_id": str(job_id)} if isinstance(job_id, UUID) else {}
    reply = jsonify(_REFUSAL.dump({"error": told, **known}))
    reply.status_code = HTTPStatus.BAD_REQUEST if problem.status == _INVALID else problem.status
    reply.headers.extend(problem.headers or {})
    return reply
