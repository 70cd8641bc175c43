"""SolveXia process runs: process runs, processes, steps, files and logs."""

from api.contracts.solvexia import files, logs, processes, properties, runs
from api.contracts.solvexia.errors import render
from api.contracts.solvexia.responses import Refusal
from api.contracts.solvexia.surface import (
    DEFAULT_SCOPES,
    EQUIVALENTS,
    SCOPES,
    blueprint,
    owns,
    rewrite,
)
from api.toolkit.auth import Accepts
from api.toolkit.surface import Contract

__all__ = ["CONTRACT", "files", "logs", "processes", "properties", "runs"]

CONTRACT = Contract(
    name="solvexia",
    title="SolveXia process runs",
    version="v1",
    owns=owns,
    accepts=Accepts(),
    render=render,
    problem=Refusal,
    scopes=SCOPES,
    equivalents=EQUIVALENTS,
    token_scopes=DEFAULT_SCOPES,
    rewrite=rewrite,
    blueprint=blueprint,
)
