"""The paths of the API, and its blueprint."""

from api.toolkit.surface import LenientBlueprint, is_below

NAME = "mage"
TRIGGERS = frozenset({f"{NAME}.trigger_by_path", f"{NAME}.trigger_by_bearer"})  # need no key
_AREAS = ("/api/pipeline_schedules", "/api/pipeline_runs", "/api/pipelines", "/api/block_runs")

blueprint = LenientBlueprint(
    NAME, __name__, resource="runs", description="Pipeline runs, triggers and block runs"
)


def owns(path: str) -> bool:
    """Whether the path is one of this API."""
    return is_below(path, *_AREAS)
