"""Where this API lies: whose tenant, project and job an address names."""

import re
from uuid import UUID

from flask import request
from sqlalchemy.orm import Session

from api.contracts.mindzie.errors import NotInThisState, refuse
from api.toolkit.context import caller, tenant
from api.toolkit.surface import LenientBlueprint
from orchestrator import runs
from orchestrator.errors import Invalid, Mistake, NotFound
from orchestrator.models import Run

TENANT = "/api/<tenant_id>/execution"
PROJECT = "/api/<tenant_id>/<project_id>/execution"
JOB = f"{PROJECT}/job/<job_id>"
OPEN = "unauthorized_ping"

# Ids of a wrong form are ours to refuse, so whatever is no other API's is taken for one.
_OTHERS = "v1|process-exec|process|pipeline_schedules|pipeline_runs|pipelines|block_runs"
_OURS = re.compile(rf"/api/(?!(?:{_OTHERS})/)[^/]+/(?:[^/]+/)?execution(?:/|$)")
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

blueprint = LenientBlueprint("mindzie", __name__, description="Execution jobs of a project")
blueprint.register_error_handler(NotInThisState, refuse)


def owns(path: str) -> bool:
    """Whether this API answers at a path."""
    return _OURS.match(path) is not None


def the_job(session: Session, project_id: UUID, job_id: UUID) -> Run:
    """A job of a project. Raises NotFound."""
    try:
        found = runs.get(session, tenant(), job_id)
    except NotFound:
        found = None
    if found is None or found.project_id != project_id:
        raise NotFound(f"the project has no job {job_id}")
    return found


def stage_failed(session: Session, run: Run) -> str | None:
    """The name of the step that failed a job, if it was one."""
    key = (run.error or {}).get("step")
    return runs.step(session, run, key).name if key else None


@blueprint.before_request
def _find() -> None:
    """Read the ids of the address. Raises Invalid for other forms, NotFound for another tenant."""
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
    if request.endpoint != f"{blueprint.name}.{OPEN}" and ids["tenant_id"] != caller().tenant_id:
        raise NotFound(f"there is no tenant {ids['tenant_id']}")
