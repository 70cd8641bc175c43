"""The addresses of VirtuousAI automation runs."""

from flask import Response, jsonify

from api.auth import Accepts
from api.contract import Blueprint, Contract
from api.problems import Problem

blueprint = Blueprint("virtuousai", __name__, description="Automation runs, automations and events")


def owns(path: str) -> bool:
    """Whether it answers at this path."""
    return path.startswith("/virtuousai")


def render(problem: Problem) -> Response:
    """The problem as this API shows it."""
    reply = jsonify({"detail": problem.detail})
    reply.status_code = problem.status
    return reply


CONTRACT = Contract(
    name="virtuousai",
    title="VirtuousAI automation runs",
    version="v1",
    owns=owns,
    accepts=Accepts(),
    render=render,
    blueprint=blueprint,
)
