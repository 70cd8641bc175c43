"""The addresses of Mage pipeline runs."""

from flask import Response, jsonify
from marshmallow import Schema

from api.auth import Accepts
from api.contract import Blueprint, Contract
from api.problems import Problem

blueprint = Blueprint("mage", __name__, description="Pipeline runs, triggers and block runs")


def owns(path: str) -> bool:
    """Whether it answers at this path."""
    return path.startswith("/mage")


def render(problem: Problem) -> Response:
    """The problem as this API shows it."""
    reply = jsonify({"detail": problem.detail})
    reply.status_code = problem.status
    return reply


CONTRACT = Contract(
    name="mage",
    title="Mage pipeline runs",
    version="v1",
    owns=owns,
    accepts=Accepts(),
    render=render,
    problem=Schema,
    blueprint=blueprint,
)
