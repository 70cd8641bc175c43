"""The paths of the API, and the scopes that they need."""

from flask import request

from api.toolkit.surface import LenientBlueprint, is_below, needs_scope

NAME = "mage"
TRIGGERS = frozenset({f"{NAME}.trigger_by_path", f"{NAME}.trigger_by_bearer"})  # need no key
_AREAS = ("/api/pipeline_schedules", "/api/pipeline_runs", "/api/pipelines", "/api/block_runs")

blueprint = LenientBlueprint(NAME, __name__, description="Pipeline runs, triggers and block runs")


def owns(path: str) -> bool:
    """Whether the path is one of this API."""
    return is_below(path, *_AREAS)


def check() -> None:
    """Raises Forbidden if the scopes of the key do not cover the request."""
    if request.endpoint is not None:
        needs_scope("schedules" if request.endpoint.endswith("_schedule") else "runs")()
