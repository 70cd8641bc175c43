"""The paths of SolveXia's API, its scopes, and its blueprint."""

import re

from api.toolkit.surface import LenientBlueprint

_OURS = re.compile(
    r"/api/v1/(processruns|processes|requests|steps|files|logs)(?:/|\Z)", re.IGNORECASE
)
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
_READS = ("workflows:read", "runs:read", "artifacts:read", "events:read")
_CHANGES = (*_READS, "runs", "artifacts")
# The scopes of the native API that they include here; those of what is not here include none.
EQUIVALENTS = {
    "process": _CHANGES,
    "process_execute": _CHANGES,
    "process_read": _READS,
    "file": ("artifacts",),
    "file_read": ("artifacts:read",),
    "log_read": ("events:read",),
}
DEFAULT_SCOPES = ("process_read",)  # of a token without any, as published

blueprint = LenientBlueprint(
    "solvexia",
    __name__,
    resource="runs",
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
