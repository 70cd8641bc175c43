"""Where SolveXia's addresses lie, who may ask there, and how they say no."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from uuid import uuid4

from flask import Response, jsonify, request

from api.toolkit.auth import READS
from api.toolkit.context import caller
from api.toolkit.problems import Problem
from api.toolkit.surface import LenientBlueprint
from orchestrator.errors import Forbidden, InvalidTransition, OrchestratorError

_OURS = re.compile(
    r"/api/v1/(processruns|processes|requests|steps|files|logs)(?:/|\Z)", re.IGNORECASE
)
# The published statuses, and those that no client can be kept from seeing. All else that is the
# client's mistake is 400: conflicts of state, bodies and queries of the wrong form.
_KEPT = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
_READ = {"process", "process_execute", "process_read"}
_CHANGE = {"process", "process_execute"}
# Those that reach others: a client that is registered with one may ask for any that it reaches.
SCOPES = {
    "process": ("process_execute", "process_read"),
    "process_execute": ("process_read",),
    "file": ("file_read",),
    "mtable": ("mtable_read",),
    "permission": ("permission_read",),
    "user": ("user_read",),
    "usergroup": ("usergroup_read",),
}
# Beside those of processes, by the first word of the path: to read, and to change.
_MORE = {
    "files": ({"file", "file_read"}, {"file"}),
    "logs": ({"log_read"}, set[str]()),
}

_log = logging.getLogger(__name__)

blueprint = LenientBlueprint(
    "solvexia",
    __name__,
    url_prefix="/api/v1",
    description="Process runs, processes, steps, files and logs",
)


def owns(path: str) -> bool:
    """Whether it answers at this path."""
    return _OURS.match(path) is not None


def rewrite(path: str) -> str:
    """The path in small letters, as the routes are; its own router knows no difference."""
    # As WSGI has it, each character is a byte: only those of ASCII have a small letter here.
    return path.encode("latin-1").lower().decode("latin-1") if owns(path) else path


def check() -> None:
    """Raises Forbidden when the scopes of the key or token leave out what is asked for.

    A token that was asked for without a scope, of a client that has none, only reads.
    """
    who, reads = caller(), request.method in READS
    if who.scopes is None:
        if who.by_token and not reads:
            told = "ask for one with the scope process_execute or process"
            raise Forbidden(f"this token has no scope and so only process_read: {told}")
        return
    found = _OURS.match(request.path)
    more = _MORE.get(found[1] if found else "", (set[str](), set[str]()))
    wanted = (_READ | more[0]) if reads else (_CHANGE | more[1])
    if wanted.isdisjoint(who.scopes):
        try:
            who.must_reach("runs", reads=reads)  # the scope of the native API is as good
        except Forbidden:
            told = f"one of the scopes {', '.join(sorted(wanted))}"
            raise Forbidden(f"this needs {told}, and the key {who.name!r} has none") from None


def render(problem: Problem) -> Response:
    """The problem as this API shows it; the log has it under the same id."""
    status = problem.status
    if status not in _KEPT:
        status = HTTPStatus.BAD_REQUEST if status < 500 else HTTPStatus.INTERNAL_SERVER_ERROR
    mistakes = [f"{each.pointer}: {each.detail}" for each in problem.mistakes]
    said = {"message": "; ".join([problem.detail, *mistakes]), "supportId": str(uuid4())}
    told = {"support_id": said["supportId"], "status": status.value, "said": said["message"]}
    _log.info("refused", extra=told)
    reply = jsonify(said)
    reply.status_code = status
    reply.headers.extend(problem.headers or {})
    return reply


@contextmanager
def or_else(
    message: str, instead_of: type[OrchestratorError] = InvalidTransition
) -> Iterator[None]:
    """Say in this API's words that the state of a run does not allow it, or what is not there."""
    try:
        yield
    except instead_of:
        raise instead_of(message) from None
