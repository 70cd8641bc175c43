"""mindzie Studio execution jobs: jobs of a tenant's project, their results, and the system."""

from flask import request

from api.auth import Accepts
from api.contract import Contract, needs
from api.contracts.mindzie import outputs, system, views
from api.contracts.mindzie.place import OPEN, blueprint, owns
from api.contracts.mindzie.refusals import finish, render
from api.contracts.mindzie.schemas import Refusal

__all__ = ["CONTRACT", "outputs", "system", "views"]


def _check() -> None:
    of_system = request.endpoint == f"{blueprint.name}.{system.status.__name__}"
    needs("system" if of_system else "runs")()


CONTRACT = Contract(
    name="mindzie",
    title="mindzie Studio execution jobs",
    version="v1",
    owns=owns,
    accepts=Accepts(),
    render=render,
    problem=Refusal,
    blueprint=blueprint,
    open=frozenset({f"{blueprint.name}.{OPEN}"}),
    check=_check,
    finish=finish,
)
