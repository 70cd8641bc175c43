"""SolveXia process runs: process runs, processes, steps, files and logs."""

from api.auth import Accepts
from api.contract import Contract
from api.contracts.solvexia import files, logs, processes, properties, runs
from api.contracts.solvexia.schemas import Refusal
from api.contracts.solvexia.surface import SCOPES, blueprint, check, owns, render, rewrite

__all__ = ["CONTRACT", "files", "logs", "processes", "properties", "runs"]

CONTRACT = Contract(
    name="solvexia",
    title="SolveXia process runs",
    version="v1",
    owns=owns,
    accepts=Accepts(),
    render=render,
    problem=Refusal,
    check=check,
    scopes=SCOPES,
    rewrite=rewrite,
    blueprint=blueprint,
)
