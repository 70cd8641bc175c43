"""OpenDataDSL process execution: process executions and processes."""

from api.contracts.opendatadsl import executions, processes, surface
from api.contracts.opendatadsl.errors import render
from api.contracts.opendatadsl.responses import REFUSAL
from api.toolkit.auth import Accepts
from api.toolkit.surface import Contract

__all__ = ["CONTRACT", "executions", "processes"]

CONTRACT = Contract(
    name="opendatadsl",
    title="OpenDataDSL process execution",
    version="v1",
    owns=surface.owns,
    accepts=Accepts(basic=True, headers=("x-odsl-key",), user_header="x-odsl-email"),
    render=render,
    problem=REFUSAL,
    problem_type="text/plain",
    blueprint=surface.blueprint,
    rewrite=surface.rewrite,
)
