"""Mage pipeline runs: pipeline runs, triggers and block runs."""

from api.contracts.mage import errors, pipelines, runs, schedules, sessions, surface, triggers
from api.contracts.mage.responses import Refusal
from api.toolkit.auth import Accepts
from api.toolkit.surface import Contract

__all__ = ["CONTRACT", "pipelines", "runs", "schedules", "sessions", "triggers"]

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
    render=errors.render,
    problem=Refusal,
    blueprint=surface.blueprint,
    open=surface.TRIGGERS | surface.OPEN,
    speaks=surface.speaks,
)
