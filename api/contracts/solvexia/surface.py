"""The paths of SolveXia's API, and the scopes that they need."""

import re

from flask import request

from api.toolkit.auth import READS
from api.toolkit.context import caller
from api.toolkit.surface import LenientBlueprint
from api.toolkit.wire import reworded
from orchestrator.errors import Forbidden

_OURS = re.compile(
    r"/api/v1/(processruns|processes|requests|steps|files|logs)(?:/|\Z)", re.IGNORECASE
)
_READ = {"process", "process_execute", "process_read"}
_CHANGE = {"process", "process_execute"}
# Scopes that include others: a client that has one may request a token with any of those.
SCOPES = {
    "process": ("process_execute", "process_read"),
    "process_execute": ("process_read",),
    "file": ("file_read",),
    "mtable": ("mtable_read",),
    "permission": ("permission_read",),
    "user": ("user_read",),
    "usergroup": ("usergroup_read",),
}
# Other scopes that suffice, by the first word of the path: to read, and to change.
_OTHERS = {
    "files": ({"file", "file_read"}, {"file"}),
    "logs": ({"log_read"}, set[str]()),
}

blueprint = LenientBlueprint(
    "solvexia",
    __name__,
    url_prefix="/api/v1",
    description="Process runs, processes, steps, files and logs",
)


def owns(path: str) -> bool:
    """Whether the path is one of this API."""
    return _OURS.match(path) is not None


def rewrite(path: str) -> str:
    """The path in small letters, as the routes are; the published API ignores case."""
    # In WSGI each character is a byte: only those of ASCII have a small letter here.
    return path.encode("latin-1").lower().decode("latin-1") if owns(path) else path


def check() -> None:
    """Raises Forbidden if the scopes of the key or token do not cover the request.

    A token that was requested without a scope, of a client that has none, only reads.
    """
    who, reads = caller(), request.method in READS
    if who.scopes is None:
        if who.by_token and not reads:
            advice = "ask for one with the scope process_execute or process"
            raise Forbidden(f"this token has no scope and so only process_read: {advice}")
        return
    to_read, to_change = _OTHERS.get(request.path.split("/")[3], (set[str](), set[str]()))
    scopes = _READ | to_read if reads else _CHANGE | to_change
    if scopes.isdisjoint(who.scopes):
        names = f"one of the scopes {', '.join(sorted(scopes))}"
        with reworded(f"this needs {names}, and the key {who.name!r} has none", Forbidden):
            who.must_reach("runs", reads=reads)  # the scope of the native API suffices
