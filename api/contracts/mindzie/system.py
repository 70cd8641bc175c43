"""The addresses of the system: its status, its queue, and whether it answers at all."""

from typing import Any
from uuid import UUID

from flask import Response

from api.contracts.mindzie import mapping, system_mapping
from api.contracts.mindzie.requests import QueueAsked
from api.contracts.mindzie.responses import QueueShown, StatusShown
from api.contracts.mindzie.surface import OPEN, PROJECT, TENANT, blueprint
from api.contracts.mindzie.vocabulary import job_type_of, priority_of
from api.toolkit.context import services, tenant, transaction
from orchestrator.access import tenants
from orchestrator.models import Run
from orchestrator.monitoring import throughput
from orchestrator.monitoring.status import first_in_line, system_status

_LOOKED_AT = 500  # of the jobs that go first
_PONG = {"type": "string"}


@blueprint.route(f"{TENANT}/system/status")
@blueprint.response(200, StatusShown)
def status(tenant_id: UUID) -> mapping.Shape:
    """Get the health of the whole system

    It is Healthy when every queue with work in it has a worker, Degraded when some have none.
    """
    broker_answers = services().broker.ping()
    with transaction() as session:
        return system_mapping.status(
            system_status(session, tenant(), broker_answers=broker_answers)
        )


@blueprint.route(f"{PROJECT}/queue")
@blueprint.arguments(QueueAsked, location="query")
@blueprint.response(200, QueueShown)
def queue(query: dict[str, Any], tenant_id: UUID, project_id: UUID) -> mapping.Shape:
    """Get the queue

    Projects share it: summary and positions are those of the tenant, the jobs are this project's
    among the 500 that go first.
    """
    broker_answers = services().broker.ping()
    with transaction() as session:
        tenants.get_project(session, tenant(), project_id)
        found = system_status(session, tenant(), broker_answers=broker_answers)
        line = first_in_line(session, tenant(), _LOOKED_AT)
        usual = throughput.typical_seconds(session, tenant(), {run.workflow_id for run, _ in line})
    estimates = query["include_estimates"]
    jobs = [
        mapping.queued(run, waiting, usual.get(run.workflow_id), estimates=estimates)
        for run, waiting in line
        if run.project_id == project_id and _is_wanted(run, query)
    ]
    return system_mapping.queue(found, jobs)


@blueprint.route(f"{PROJECT}/{OPEN.replace('_', '-')}")
@blueprint.doc(security=[])
@blueprint.response(200, _PONG, content_type="text/plain")
def unauthorized_ping(tenant_id: UUID, project_id: UUID) -> Response:
    """Say that the server answers"""
    return Response("Ping Successful", content_type="text/plain; charset=utf-8")


@blueprint.route(f"{PROJECT}/ping")
@blueprint.response(200, _PONG, content_type="text/plain")
def ping(tenant_id: UUID, project_id: UUID) -> Response:
    """Say that the server answers and the key is right"""
    with transaction() as session:
        tenants.get_project(session, tenant(), project_id)
    told = f"Ping Successful (tenant id: {tenant_id})"
    return Response(told, content_type="text/plain; charset=utf-8")


def _is_wanted(run: Run, query: dict[str, Any]) -> bool:
    shown = {"priority": priority_of(run.priority), "job_type": job_type_of(run.annotations)}
    return all(query.get(name) in (None, word) for name, word in shown.items())
