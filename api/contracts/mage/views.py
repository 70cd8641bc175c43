"""The whole contract: every address, from the modules that have them."""

from api.auth import Accepts
from api.contract import Contract
from api.contracts.mage import pipelines, place, runs, schedules, triggers
from api.contracts.mage.schemas import MageRefusal

_ADDRESSES = (runs, triggers, schedules, pipelines)

CONTRACT = Contract(
    name=place.NAME,
    title="Mage pipeline runs",
    version="v1",
    owns=place.owns,
    accepts=Accepts(
        bearer=True,
        headers=("X-API-KEY", "OAUTH-TOKEN"),
        cookie="oauth_token",
        cookie_changes=True,
        query="api_key",
        body="api_key",
    ),
    render=place.render,
    problem=MageRefusal,
    blueprint=place.blueprint,
    open=place.TRIGGERS,
    check=place.check,
)
