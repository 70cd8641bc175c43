"""The addresses of mindzie Studio execution jobs."""

from flask import Response, jsonify
from marshmallow import Schema

from api.auth import Accepts
from api.contract import Blueprint, Contract
from api.problems import Problem

blueprint = Blueprint("mindzie", __name__, description="Execution jobs of a project")


def owns(path: str) -> bool:
    """Whether it answers at this path."""
    return path.startswith("/mindzie")


def render(problem: Problem) -> Response:
    """The problem as this API shows it."""
    reply = jsonify({"detail": problem.detail})
    reply.status_code = problem.status
    return reply


CONTRACT = Contract(
    name="mindzie",
    title="mindzie Studio execution jobs",
    version="v1",
    owns=owns,
    accepts=Accepts(),
    render=render,
    problem=Schema,
    blueprint=blueprint,
)
