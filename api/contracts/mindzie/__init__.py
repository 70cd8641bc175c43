"""mindzie Studio execution jobs: jobs of a tenant's project, their results, and the system."""

from flask import request

from api.contracts.mindzie import jobs, results, system
from api.contracts.mindzie.errors import Refusal, finish, render
from api.contracts.mindzie.surface import OPEN, blueprint, owns
from api.toolkit.auth import Accepts
from api.toolkit.surface import Contract, needs_scope

__all__ = ["CONTRACT", "jobs", "results", "system"]


def _check() -> None:
    needs_scope("system" if request.endpoint == f"{blueprint.name}.status" else "runs")()


CONTRACT = Contract(
    name="mindzie",
    title="mindzie Studio execution jobs",
    version="v1",
    owns=owns,
    accepts=Accepts(),
    render=render,
    problem=Refusal,
    blueprint=blueprint,
    open=OPEN,
    check=_check,
    finish=finish,
)
