"""VirtuousAI automation runs: automation runs, automations and events."""

from flask import request

from api.contracts.virtuousai import automations, runs
from api.contracts.virtuousai.errors import render
from api.contracts.virtuousai.responses import Refusal
from api.toolkit.auth import READS, Accepts
from api.toolkit.context import caller
from api.toolkit.surface import Contract, is_below

__all__ = ["CONTRACT"]

# Each address with the resource of our scopes that it is about.
_SURFACE = {
    automations.ADDRESS: "workflows",
    runs.RUNS: "runs",
    runs.EVENTS: "events",
}


def owns(path: str) -> bool:
    """Whether it answers at this path."""
    return is_below(path, *_SURFACE)


def check() -> None:
    """Raises Forbidden when the key's scopes leave out what is asked for."""
    if request.endpoint == automations.TRIGGER:
        resource = "runs"
    else:
        resource = next(name for place, name in _SURFACE.items() if is_below(request.path, place))
    caller().must_reach(resource, reads=request.method in READS)


CONTRACT = Contract(
    name="virtuousai",
    title="VirtuousAI automation runs",
    version="v1",
    owns=owns,
    accepts=Accepts(bearer=True, headers=("X-API-Key",), cookie="vai_token", cookie_changes=True),
    render=render,
    problem=Refusal,
    blueprint=runs.blueprint,
    check=check,
)
