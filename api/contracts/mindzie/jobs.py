"""The addresses of jobs: submit, look, list, cancel, retry."""

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import request
from marshmallow import EXCLUDE
from sqlalchemy.orm import Session

from api.contracts.mindzie import mapping
from api.contracts.mindzie.errors import NotInThisState
from api.contracts.mindzie.requests import (
    CancelAsked,
    JobAsked,
    JobsAsked,
    RetryAsked,
    new_run,
    rerun,
    run_filter,
)
from api.contracts.mindzie.responses import (
    CancelShown,
    JobAccepted,
    JobShown,
    JobsShown,
    RetryAccepted,
)
from api.contracts.mindzie.surface import JOB, PROJECT, blueprint, stage_failed, the_job
from api.contracts.mindzie.vocabulary import PRESERVE, STATES, is_preserved
from api.toolkit.context import caller, services, settings, tenant, transaction
from api.toolkit.requests import IdempotencyHeaders
from orchestrator import runs, workflows
from orchestrator.access import tenants
from orchestrator.errors import InvalidTransition, NotFound
from orchestrator.models import Role, Run
from orchestrator.monitoring import run_counts, status, throughput
from orchestrator.outputs import summaries

# A client that got no answer asks again; so soon, the same words mean the same job.
_AGAIN = timedelta(seconds=10)


@blueprint.route(f"{PROJECT}/job", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(JobAsked)
@blueprint.response(200, JobAccepted)
def submit(
    headers: dict[str, Any], body: dict[str, Any], tenant_id: UUID, project_id: UUID
) -> mapping.Shape:
    """Submit a job

    With the header `Idempotency-Key` the same request gives the same job however often it is
    sent; without one it does so for ten seconds.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        tenants.get_project(session, tenant(), project_id)
        workflow = _resource(session, project_id, body["resource"]["resource_id"])
        new, window = new_run(body, workflow, caller()), settings().window
        run, _ = runs.submit(session, tenant(), new, window=window, **_once(headers))
        return _accepted(session, run)


@blueprint.route(f"{PROJECT}/jobs")
@blueprint.arguments(JobsAsked, location="query")
@blueprint.response(200, JobsShown)
def page(query: dict[str, Any], tenant_id: UUID, project_id: UUID) -> mapping.Shape:
    """List jobs, the newest first

    The summary is of the whole project. More than 100 jobs a page are not given.
    """
    number, size = query["page"], query["page_size"]
    order, start = runs.RunSort(), (number - 1) * size
    with transaction() as session:
        tenants.get_project(session, tenant(), project_id)
        which = run_filter(query, project_id)
        found = runs.page(
            session, tenant(), which, order, size + 1, offset=start, only=mapping.LISTED
        )
        said = summaries.summaries_of_runs(session, found[:size])
        counts = run_counts.counts_by_state(
            session, tenant(), run_counts.RunCountKey(project_id=project_id)
        )
    return {
        "jobs": [mapping.listed(run, said[run.id]) for run in found[:size]],
        "summary": mapping.summary(counts),
        "page": number,
        "page_size": size,
        "has_next_page": len(found) > size,
    }


@blueprint.route(JOB)
@blueprint.response(200, JobShown)
def show(tenant_id: UUID, project_id: UUID, job_id: UUID) -> mapping.Shape:
    """Get a job

    Every member of `progress` and `metrics` is there whatever the status of the job.
    """
    with services().database.transaction(tenant(), snapshot=True) as session:
        run = the_job(session, project_id, job_id)
        said = summaries.summaries_of_runs(session, [run])[run.id]
        changed_at = runs.changed_at(session, [run]).get(run.id, run.created_at)
        return mapping.detail(
            run,
            said,
            changed_at,
            stage_failed(session, run),
            has_mail_server=bool(settings().smtp_url),
        )


@blueprint.route(JOB, methods=["DELETE"])
@blueprint.arguments(CancelAsked, required=False)
@blueprint.response(200, CancelShown)
def cancel(body: dict[str, Any], tenant_id: UUID, project_id: UUID, job_id: UUID) -> mapping.Shape:
    """Cancel a job that waits or runs

    What runs may clean up unless the termination is forced; until then the job is still Running,
    in the stage Cancelling.
    """
    caller().must_be(Role.OPERATOR)
    grace = timedelta(0) if body["force_termination"] else settings().cancel_grace
    with transaction() as session:
        the_job(session, project_id, job_id)
        try:
            run = runs.cancel(session, tenant(), job_id, grace=grace, reason=body.get("reason"))
        except InvalidTransition:
            ended = runs.get(session, tenant(), job_id)
            raise NotInThisState("job_not_cancellable", ended) from None
        preserve = body["preserve_partial_results"]
        if preserve is not is_preserved(run.annotations):
            runs.annotate(session, tenant(), job_id, **{PRESERVE: preserve})
        return mapping.cancelled(runs.get(session, tenant(), job_id))


@blueprint.route(f"{JOB}/retry", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(RetryAsked, required=False)
@blueprint.response(200, RetryAccepted)
def retry(
    headers: dict[str, Any], body: dict[str, Any], tenant_id: UUID, project_id: UUID, job_id: UUID
) -> mapping.Shape:
    """Run a failed job again, as a new job

    The failed one stays as it is. Sent again, the request gives the same new job, as a submitted
    one does.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        old = the_job(session, project_id, job_id)
        if STATES[old.state] != "Failed":
            raise NotInThisState("job_not_retryable", old)
        asked, window = rerun(body, old, caller()), settings().window
        new = runs.retry(session, tenant(), job_id, asked, window=window, **_once(headers))
        told = {
            "original_job_id": old.id,
            "attempt": runs.retry_number(session, new),
            "retry_reason": new.reason,
        }
        return {**_accepted(session, new), "retry": told}


def _accepted(session: Session, made: Run) -> mapping.Shape:
    run = runs.get(session, tenant(), made.id)
    waiting = status.wait_estimates(session, [run]).get(run.id)
    usual = throughput.typical_seconds(session, tenant(), {run.workflow_id})
    return mapping.accepted(run, waiting, usual.get(run.workflow_id))


def _resource(session: Session, project_id: UUID, which: str) -> str:
    """The name of the workflow with this id or name in a project. Raises NotFound."""
    try:
        asked: str | UUID = UUID(which)
    except ValueError:
        asked = which
    try:
        found = workflows.get(session, tenant(), asked)
    except NotFound:
        found = None
    if found is None or found.project_id != project_id:
        raise NotFound(f"the project has no resource {which!r}")
    return found.name


def _once(headers: dict[str, Any]) -> dict[str, Any]:
    """What makes a request the same as an earlier one, and for how long."""
    if "idempotency_key" in headers:
        return {"idempotency_key": headers["idempotency_key"]}
    asked = (str(caller().key_id).encode(), request.path.encode(), request.get_data(cache=True))
    return {"idempotency_key": hashlib.sha256(b"\n".join(asked)).hexdigest(), "good_for": _AGAIN}
