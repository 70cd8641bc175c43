"""The addresses of SolveXia process runs."""

from flask import Response, jsonify
from marshmallow import Schema

from api.auth import Accepts
from api.contract import Blueprint, Contract
from api.problems import Problem

blueprint = Blueprint(
    "solvexia", __name__, description="Process runs, processes, steps, files and logs"
)


def owns(path: str) -> bool:
    """Whether it answers at this path."""
    return path.startswith("/solvexia")


def render(problem: Problem) -> Response:
    """The problem as this API shows it."""
    reply = jsonify({"detail": problem.detail})
    reply.status_code = problem.status
    return reply


CONTRACT = Contract(
    name="solvexia",
    title="SolveXia process runs",
    version="v1",
    owns=owns,
    accepts=Accepts(),
    render=render,
    problem=Schema,
    blueprint=blueprint,
)
