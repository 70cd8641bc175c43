"""mindzie Studio execution jobs: jobs of a tenant's project, their results, and the system."""

from api.contracts.mindzie import jobs, results, sdk, system
from api.contracts.mindzie.errors import Refusal, finish, render
from api.contracts.mindzie.surface import OPEN, blueprint, owns
from api.toolkit.auth import Accepts
from api.toolkit.surface import Contract

__all__ = ["CONTRACT", "jobs", "results", "sdk", "system"]

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
    finish=finish,
)
