"""The addresses of the system: status, queue and pings."""

from typing import Any
from uuid import UUID

from flask import Response

from api.contracts.mindzie.mapping import JobView, QueueView
from api.contracts.mindzie.requests import MAX_QUEUE, QueueQuery
from api.contracts.mindzie.responses import Queue, Status
from api.contracts.mindzie.surface import PROJECT, TENANT, blueprint
from api.contracts.mindzie.vocabulary import job_type_of, priority_of
from api.toolkit.context import services, tenant, transaction, worker_alias
from orchestrator import workflows
from orchestrator.access import tenants
from orchestrator.models import Run
from orchestrator.monitoring import throughput
from orchestrator.monitoring.status import SystemStatus, first_in_line, system_status

_PONG = {"type": "string"}


@blueprint.route(f"{TENANT}/system/status", resources="system")
@blueprint.response(200, Status)
def status() -> SystemStatus:
    """Get the health of the whole system

    It is Healthy when every queue with work in it has a worker, Degraded when some have none.
    """
    broker_answers = services().broker.ping()
    with transaction() as session:
        return system_status(session, tenant(), worker_alias(), broker_answers=broker_answers)


@blueprint.route(f"{PROJECT}/queue", resources="runs system")
@blueprint.arguments(QueueQuery, location="query")
@blueprint.response(200, Queue)
def queue(query: dict[str, Any], project_id: UUID) -> QueueView:
    """Get the queue

    Projects share it: summary and positions are those of the tenant, the jobs are this project's
    among the 500 that go first.
    """
    broker_answers = services().broker.ping()
    with transaction() as session:
        tenants.get_project(session, tenant(), project_id)
        system = system_status(session, tenant(), worker_alias(), broker_answers=broker_answers)
        queued = first_in_line(session, tenant(), MAX_QUEUE)
        typical = throughput.typical_seconds(
            session, tenant(), {run.workflow_id for run, _ in queued}
        )
        titles = workflows.titles_of_runs(session, [run for run, _ in queued])
    jobs = [
        JobView(
            run=run,
            waiting=waiting,
            typical_seconds=typical.get(run.workflow_id),
            with_estimates=query["include_estimates"],
            title=titles.get(run.version_id),
        )
        for run, waiting in queued
        if run.project_id == project_id and _matches(run, query)
    ]
    size = min(query["page_size"], MAX_QUEUE)
    start = (query["page"] - 1) * size
    return QueueView(system, jobs[start : start + size])


@blueprint.route(f"{PROJECT}/unauthorized-ping")
@blueprint.doc(security=[])
@blueprint.response(200, _PONG, content_type="text/plain")
def unauthorized_ping(project_id: UUID) -> Response:
    """Say that the server answers"""
    return Response("Ping Successful", content_type="text/plain; charset=utf-8")


@blueprint.route(f"{PROJECT}/ping")
@blueprint.response(200, _PONG, content_type="text/plain")
def ping(project_id: UUID) -> Response:
    """Say that the server answers and the key is right"""
    with transaction() as session:
        tenants.get_project(session, tenant(), project_id)
    message = f"Ping Successful (tenant id: {tenant()})"
    return Response(message, content_type="text/plain; charset=utf-8")


def _matches(run: Run, query: dict[str, Any]) -> bool:
    words = {"priority": priority_of(run.priority), "job_type": job_type_of(run.annotations)}
    return all(query.get(name) in (None, word) for name, word in words.items())
