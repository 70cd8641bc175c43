"""The addresses of this API, its blueprint, and the ids in a path."""

import re
from uuid import UUID

from flask import request
from sqlalchemy.orm import Session

from api.contracts.mindzie.errors import NotInThisState, refuse
from api.toolkit.context import tenant
from api.toolkit.surface import LenientBlueprint
from api.toolkit.wire import reworded
from orchestrator import runs
from orchestrator.errors import Invalid, Mistake, NotFound
from orchestrator.models import Run

TENANT = "/api/<tenant_id>/execution"
PROJECT = "/api/<tenant_id>/<project_id>/execution"
JOB = f"{PROJECT}/job/<job_id>"

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Malformed ids get an error of this API, so every path that no other API owns matches; so does what
# the published SDK calls besides the execution of jobs.
_OTHER_APIS = "v1|process-exec|process|pipeline_schedules|pipeline_runs|pipelines|block_runs"
_PATHS = re.compile(
    rf"/api/(?:(?!(?:{_OTHER_APIS})/)[^/]+/(?:[^/]+/)?execution|ping|(?i:{_GUID.pattern}))(?:/|$)"
)

blueprint = LenientBlueprint(
    "mindzie", __name__, resource="runs", description="Execution jobs of a project"
)
OPEN = frozenset({f"{blueprint.name}.unauthorized_ping"})  # needs no key
blueprint.register_error_handler(NotInThisState, refuse)


def owns(path: str) -> bool:
    """Whether this API answers at a path."""
    return _PATHS.match(path) is not None


def get_job(session: Session, project_id: UUID, job_id: UUID) -> Run:
    """A job of a project. Raises NotFound."""
    message = f"the project has no job {job_id}"
    with reworded(message, NotFound):
        run = runs.get(session, tenant(), job_id)
    if run.project_id != project_id:
        raise NotFound(message)
    return run


def failed_stage(session: Session, run: Run) -> str | None:
    """The name of the step that failed a job."""
    key = (run.error or {}).get("step")
    return runs.step(session, run, key).name if key else None


@blueprint.before_request
def _parse_ids() -> None:
    """Parse the ids in the path; the views use the tenant of the caller.

    Raises Invalid if malformed, NotFound for another tenant.
    """
    if not owns(request.path):
        raise NotFound("there is nothing at this address")
    ids = request.view_args or {}
    mistakes = [
        Mistake(f"/path/{name.removesuffix('_id')}Id", f"{text!r} is not a GUID")
        for name, text in ids.items()
        if not _GUID.fullmatch(text)
    ]
    if mistakes:
        raise Invalid("the address has an id that is not a GUID", *mistakes)
    ids.update({name: UUID(text) for name, text in ids.items()})
    tenant_id = ids.pop("tenant_id")
    if request.endpoint not in OPEN and tenant_id != tenant():
        raise NotFound(f"there is no tenant {tenant_id}")
