"""The addresses of jobs: submit, list, get, cancel, retry."""

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import request
from marshmallow import EXCLUDE
from sqlalchemy.orm import Session

from api.contracts.mindzie import requests, responses
from api.contracts.mindzie.errors import NotInThisState
from api.contracts.mindzie.mapping import RUN_COLUMNS, JobView
from api.contracts.mindzie.surface import JOB, PROJECT, blueprint, failed_stage, get_job
from api.contracts.mindzie.vocabulary import PRESERVE, STATES, is_preserved
from api.toolkit import paging
from api.toolkit.context import caller, must_lend, settings, tenant, transaction
from api.toolkit.fields import IdempotencyHeaders
from api.toolkit.wire import relocated, reworded
from orchestrator import runs, workflows
from orchestrator.access import tenants
from orchestrator.errors import InvalidTransition, NotFound
from orchestrator.models import Run
from orchestrator.monitoring import run_counts, status, throughput
from orchestrator.outputs import summaries

# A client without a response repeats the request: an identical one this soon is the same job.
_REPEAT_WINDOW = timedelta(seconds=10)


@blueprint.route(f"{PROJECT}/job", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(requests.JobBody)
@blueprint.response(200, responses.JobAccepted)
def submit(headers: dict[str, Any], body: dict[str, Any], project_id: UUID) -> JobView:
    """Submit a job

    With the header `Idempotency-Key` the same request gives the same job however often it is
    sent; without one it does so for ten seconds.
    """
    with transaction() as session:
        return start_job(session, project_id, body, headers)


@blueprint.route(f"{PROJECT}/jobs")
@blueprint.arguments(requests.JobsQuery, location="query")
@blueprint.response(200, responses.JobPage)
def page(query: dict[str, Any], project_id: UUID) -> dict[str, Any]:
    """List jobs, the newest first

    The summary is of the whole project. More than 100 jobs a page are not given.
    """
    number, size = query["page"], min(query["page_size"], requests.MAX_PAGE)
    with transaction() as session:
        tenants.get_project(session, tenant(), project_id)
        filters = requests.run_filter(query, project_id)
        part = paging.OffsetPage((number - 1) * size, size, filters)
        order = runs.RunSort(after=part.after)
        rows = runs.page(
            session, tenant(), filters, order, size + 1, offset=part.skip, only=RUN_COLUMNS
        )
        part.end([order.position(run) for run in rows[:size]])
        outputs = summaries.summaries_of_runs(session, rows[:size])
        titles = workflows.titles_of_runs(session, rows[:size])
        counts = run_counts.counts_by_state(
            session, tenant(), run_counts.RunCountKey(project_id=project_id)
        )
    return {
        "jobs": [
            JobView(run=run, output=outputs[run.id], title=titles.get(run.version_id))
            for run in rows[:size]
        ],
        "summary": counts,
        "page": number,
        "page_size": size,
        "has_next_page": len(rows) > size,
    }


@blueprint.route(JOB)
@blueprint.response(200, responses.Job)
def show(project_id: UUID, job_id: UUID) -> JobView:
    """Get a job

    Every member of `progress` and `metrics` is there whatever the status of the job.
    """
    with transaction(snapshot=True) as session:
        run = get_job(session, project_id, job_id)
        return JobView(
            run=run,
            output=summaries.summaries_of_runs(session, [run])[run.id],
            updated_at=runs.changed_at(session, [run]).get(run.id, run.created_at),
            failed_stage=failed_stage(session, run),
            title=workflows.titles_of_runs(session, [run]).get(run.version_id),
        )


@blueprint.route(JOB, methods=["DELETE"])
@blueprint.arguments(requests.CancelBody, required=False)
@blueprint.response(200, responses.Cancellation)
def cancel(body: dict[str, Any], project_id: UUID, job_id: UUID) -> Run:
    """Cancel a job that waits or runs

    What runs may clean up unless the termination is forced; until then the job is still Running,
    in the stage Cancelling.
    """
    with transaction() as session:
        return cancel_job(session, project_id, job_id, body)


@blueprint.route(f"{JOB}/retry", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(requests.RetryBody, required=False)
@blueprint.response(200, responses.RetryAccepted)
def retry(headers: dict[str, Any], body: dict[str, Any], project_id: UUID, job_id: UUID) -> JobView:
    """Run a failed job again, as a new job

    The failed one stays as it is. Sent again, the request gives the same new job, as a submitted
    one does.
    """
    with transaction() as session, relocated({"/params": "/updatedParameters"}):
        old = get_job(session, project_id, job_id)
        if STATES[old.state] != "Failed":
            raise NotInThisState("job_not_retryable", old)
        if body["updated_parameters"]:
            must_lend(old.run_as, "runs")
        schema = workflows.params_schema(session, old.version_id)
        retry_request = requests.rerun(body, old, schema, caller())
        new = runs.retry(
            session,
            tenant(),
            job_id,
            retry_request,
            window=settings().window,
            **_idempotency(headers),
        )
        return _accepted(session, new, attempt=runs.retry_number(session, new))


def start_job(
    session: Session, project_id: UUID, body: dict[str, Any], headers: dict[str, Any]
) -> JobView:
    """Submit a job of a project. Raises NotFound, InvalidParams and IdempotencyMismatch."""
    tenants.get_project(session, tenant(), project_id)
    workflow = _resource(session, project_id, body["resource"]["resource_id"])
    new, window = requests.new_run(body, workflow, caller()), settings().window
    with relocated({"/params": "/parameters"}):
        run, _ = runs.submit(session, tenant(), new, window=window, **_idempotency(headers))
    return _accepted(session, run)


def cancel_job(session: Session, project_id: UUID, job_id: UUID, body: dict[str, Any]) -> Run:
    """Cancel a job of a project. Raises NotFound, and NotInThisState for one that has ended."""
    grace = timedelta(0) if body["force_termination"] else settings().cancel_grace
    get_job(session, project_id, job_id)
    try:
        run = runs.cancel(session, tenant(), job_id, grace=grace, reason=body.get("reason"))
    except InvalidTransition:
        ended = runs.get(session, tenant(), job_id)
        raise NotInThisState("job_not_cancellable", ended) from None
    preserve = body["preserve_partial_results"]
    if preserve is not is_preserved(run.annotations):
        runs.annotate(session, tenant(), job_id, **{PRESERVE: preserve})
    return runs.get(session, tenant(), job_id)


def _accepted(session: Session, row: Run, attempt: int | None = None) -> JobView:
    run = runs.get(session, tenant(), row.id)
    typical = throughput.typical_seconds(session, tenant(), {run.workflow_id})
    return JobView(
        run=run,
        waiting=status.wait_estimates(session, [run]).get(run.id),
        typical_seconds=typical.get(run.workflow_id),
        attempt=attempt,
        title=workflows.titles_of_runs(session, [run]).get(run.version_id),
    )


def _resource(session: Session, project_id: UUID, id_or_name: str) -> str:
    """The name of the workflow with this id or name in a project. Raises NotFound."""
    try:
        key: str | UUID = UUID(id_or_name)
    except ValueError:
        key = id_or_name
    message = f"the project has no resource {id_or_name!r}"
    with reworded(message, NotFound):
        workflow = workflows.get(session, tenant(), key)
    if workflow.project_id != project_id:
        raise NotFound(message)
    return workflow.name


def _idempotency(headers: dict[str, Any]) -> dict[str, Any]:
    """The idempotency key of the request, by default a digest of it that expires soon."""
    if "idempotency_key" in headers:
        return {"idempotency_key": headers["idempotency_key"]}
    parts = (str(caller().key_id).encode(), request.path.encode(), request.get_data(cache=True))
    digest = hashlib.sha256(b"\n".join(parts)).hexdigest()
    return {"idempotency_key": digest, "good_for": _REPEAT_WINDOW}
