"""VirtuousAI automation runs: automation runs, automations and events."""

from api.contracts.virtuousai import runs, events, automations, access_tokens, surface  # isort: skip - as documented
from api.contracts.virtuousai.errors import Refusal, render
from api.toolkit.auth import Accepts
from api.toolkit.surface import Contract

__all__ = ["CONTRACT", "access_tokens", "automations", "events", "runs"]

CONTRACT = Contract(
    name="virtuousai",
    title="VirtuousAI automation runs",
    version="v1",
    owns=surface.owns,
    accepts=Accepts(bearer=True, headers=("X-API-Key",), cookie="vai_token", cookie_changes=True),
    render=render,
    problem=Refusal,
    blueprint=surface.blueprint,
)
