"""Mage pipeline runs: pipeline runs, triggers and block runs."""

from api.auth import Accepts
from api.contract import Contract
from api.contracts.mage import pipelines, refusals, runs, schedules, surface, triggers
from api.contracts.mage.schemas import Refusal

__all__ = ["CONTRACT", "pipelines", "runs", "schedules", "triggers"]

CONTRACT = Contract(
    name=surface.NAME,
    title="Mage pipeline runs",
    version="v1",
    owns=surface.owns,
    accepts=Accepts(
        bearer=True,
        headers=("X-API-KEY", "OAUTH-TOKEN"),
        cookie="oauth_token",
        cookie_changes=True,
        query="api_key",
        body="api_key",
    ),
    render=refusals.render,
    problem=Refusal,
    blueprint=surface.blueprint,
    open=surface.TRIGGERS,
    check=surface.check,
)
