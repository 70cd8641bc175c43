"""`/healthz` and `/readyz`."""

from typing import Any

from flask import Blueprint

from api.toolkit.context import services

blueprint = Blueprint("ops", __name__)


@blueprint.get("/healthz")
def healthz() -> dict[str, str]:
    """Liveness of the process."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict[str, Any], int]:
    """Readiness: Postgres and Redis answer. Without Redis, runs are accepted and wait."""
    checks = {
        "database": "ok" if services().database.answers() else "away",
        "broker": "ok" if services().broker.ping() else "away",
    }
    ready = set(checks.values()) == {"ok"}
    return {"status": "ok" if ready else "not ready", **checks}, 200 if ready else 503
