"""`/api/v1/workers`, `/queues` and `/system/status`: who works, what waits, and how it goes."""

from typing import Any

from marshmallow import RAISE, Schema, fields

from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import services, tenant, transaction
from api.toolkit.fields import ResponseSchema, Timestamp
from api.toolkit.requests import PageQuery
from orchestrator.db import Row
from orchestrator.monitoring import queues as lines
from orchestrator.monitoring.queues import QueueState
from orchestrator.monitoring.status import SystemStatus, system_status
from orchestrator.monitoring.workers import get_worker, page_of_workers

blueprint = Blueprint("system", __name__, url_prefix="/api/v1", description="Workers and queues")


class WorkerShown(ResponseSchema):
    """One worker, as it last said itself."""

    name = fields.String()
    status = fields.String(
        metadata={
            "description": "active, draining (takes nothing new), drained (runs nothing more), "
            "or offline (silent)"
        }
    )
    host = fields.String()
    pid = fields.Integer()
    pool = fields.String()
    queues = fields.List(
        fields.String(), metadata={"description": "those of yours that it listens to"}
    )
    capacity = fields.Integer(metadata={"description": "steps at once"})
    active = fields.Integer(metadata={"description": "steps now"})
    usage = fields.Dict(metadata={"description": "of its host; memory and disk in bytes"})
    versions = fields.Dict()
    started_at = Timestamp()
    seen_at = Timestamp()


class WorkerPage(Schema):
    """One page of workers."""

    items = fields.List(fields.Nested(WorkerShown))
    next_cursor = fields.String(allow_none=True)


class QueueShown(ResponseSchema):
    """What you have in a queue; `default` is there even when nothing uses it."""

    name = fields.String()
    waiting = fields.Integer(metadata={"description": "runs that wait for their turn"})
    by_priority = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata={"description": "of the waiting runs"},
    )
    in_window = fields.Integer(
        metadata={"description": "steps that the next free worker takes; not counted past 10,000"}
    )
    runnable = fields.Integer(
        metadata={"description": "steps that are ready and follow these; not counted past 10,000"}
    )
    running = fields.Integer(metadata={"description": "steps"})
    oldest_waiting_seconds = fields.Float(allow_none=True)
    workers = fields.Integer(metadata={"description": "active ones that listen to it"})


class QueuePage(Schema):
    """One page of queues."""

    items = fields.List(fields.Nested(QueueShown))
    next_cursor = fields.String(allow_none=True)


class WaitingShown(ResponseSchema):
    """The runs that wait for their turn."""

    waiting = fields.Integer()
    by_priority = fields.Dict(keys=fields.String(), values=fields.Integer())
    average_wait_seconds = fields.Float(
        allow_none=True, metadata={"description": "of the runs that ended in the last hour"}
    )
    estimated_drain_seconds = fields.Float(
        allow_none=True, metadata={"description": "null when nothing is known that could tell"}
    )


class EndedShown(ResponseSchema):
    """The runs that ended; a day is one of UTC."""

    ended_today = fields.Integer()
    succeeded_today = fields.Integer()
    failed_today = fields.Integer(metadata={"description": "those that timed out too"})
    mean_duration_seconds = fields.Float(allow_none=True)
    success_rate = fields.Float(allow_none=True, metadata={"description": "0 to 1"})
    throughput_per_hour = fields.Float(metadata={"description": "ended in the last hour"})


class ResourcesShown(ResponseSchema):
    """What the hosts of the workers have together; memory and disk in bytes."""

    cpus = fields.Integer()
    cpu_used = fields.Float(metadata={"description": "in CPUs"})
    memory_total = fields.Integer()
    memory_used = fields.Integer()
    disk_total = fields.Integer()
    disk_free = fields.Integer()


class StatusShown(ResponseSchema):
    """The system at a glance."""

    status = fields.String(metadata={"description": "healthy, degraded or unhealthy"})
    reasons = fields.List(fields.String(), metadata={"description": "why it is not healthy"})
    nodes = fields.List(fields.Nested(WorkerShown))
    queues = fields.Nested(WaitingShown)
    runs = fields.Nested(EndedShown)
    resources = fields.Nested(ResourcesShown)
    timestamp = Timestamp()


@blueprint.route("/workers")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, WorkerPage)
def workers(query: dict[str, Any]) -> dict[str, Any]:
    """List workers by name

    One that ended in peace is gone from the list at once, one that was not seen for a day then.
    """
    (after,) = paging.decode(query.get("cursor"), str) or ("",)
    limit = query["limit"]
    with transaction() as session:
        found = page_of_workers(session, tenant(), after=after, limit=limit + 1)
    return _page(found, limit)


@blueprint.route("/workers/<name>")
@blueprint.response(200, WorkerShown)
def worker(name: str) -> Row:
    """Get a worker"""
    with transaction() as session:
        return get_worker(session, tenant(), name)


@blueprint.route("/queues")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, QueuePage)
def queues(query: dict[str, Any]) -> dict[str, Any]:
    """List the queues that your workflows use, by name"""
    (after,) = paging.decode(query.get("cursor"), str) or ("",)
    limit = query["limit"]
    with transaction() as session:
        found = lines.page_of_queues(session, tenant(), after=after, limit=limit + 1)
    return _page(found, limit)


@blueprint.route("/queues/<name>")
@blueprint.response(200, QueueShown)
def queue(name: str) -> QueueState:
    """Get a queue"""
    with transaction() as session:
        return lines.get_queue(session, tenant(), name)


@blueprint.route("/system/status")
@blueprint.response(200, StatusShown)
def status() -> SystemStatus:
    """Get the system at a glance

    It is healthy when the broker answers and an active worker listens to every queue in which
    work of yours is; `reasons` says what is missing.
    """
    broker_answers = services().broker.ping()
    with transaction() as session:
        return system_status(session, tenant(), broker_answers=broker_answers)


def _page(found: Any, limit: int) -> dict[str, Any]:
    return paging.page(found, limit, lambda last: (last.name,))
