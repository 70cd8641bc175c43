"""`/api/v1/workers`, `/queues` and `/system/status`: workers, backlogs and overall health."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from marshmallow import fields

from api.toolkit.blueprints import Blueprint
from api.toolkit.context import services, tenant, transaction, worker_alias
from api.toolkit.fields import Timestamp
from api.toolkit.wire import WireSchema, columns, enumeration
from orchestrator.models.metrics import Worker
from orchestrator.monitoring.queues import QueueState, get_queue, page_of_queues
from orchestrator.monitoring.status import SystemStatus, system_status
from orchestrator.monitoring.workers import get_worker, page_of_workers

blueprint = Blueprint("system", __name__, description="Workers and queues")


class WorkerSchema(WireSchema):
    """One worker, as it last reported.

    Only an admin of the tenant `default` sees its real name and host.
    """

    class Meta:
        include = columns(
            Worker,
            "name status host pid pool queues capacity active usage versions started_at seen_at",
            status=enumeration(
                ("active", "draining", "drained", "offline"),
                "draining takes nothing new, drained runs nothing more, offline is silent",
            ),
            queues="those of yours that it listens to",
            pid="0 where its name is not the real one",
            capacity="steps at once",
            active="steps now",
            usage="of its host, memory and disk in bytes; and messages dropped, processes missing",
        )


class QueueSchema(WireSchema):
    """A tenant's work in a queue; `default` exists even when no workflow uses it."""

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


class WaitingRunsSchema(WireSchema):
    """The runs that are not started yet."""

    waiting = fields.Integer()
    by_priority = fields.Dict(keys=fields.String(), values=fields.Integer())
    average_wait_seconds = fields.Float(
        allow_none=True, metadata={"description": "of the runs that ended in the last hour"}
    )
    estimated_drain_seconds = fields.Float(
        allow_none=True, metadata={"description": "null when nothing is known that could tell"}
    )


class EndedRunsSchema(WireSchema):
    """The runs that ended; a day is a day of UTC."""

    ended_today = fields.Integer()
    succeeded_today = fields.Integer()
    failed_today = fields.Integer(metadata={"description": "those that timed out too"})
    mean_duration_seconds = fields.Float(allow_none=True)
    success_rate = fields.Float(allow_none=True, metadata={"description": "0 to 1"})
    throughput_per_hour = fields.Float(metadata={"description": "ended in the last hour"})


class ResourcesSchema(WireSchema):
    """Resources of all hosts of workers; memory and disk in bytes."""

    cpus = fields.Integer()
    cpu_used = fields.Float(metadata={"description": "in CPUs"})
    memory_total = fields.Integer()
    memory_used = fields.Integer()
    disk_total = fields.Integer()
    disk_free = fields.Integer()


class SystemStatusSchema(WireSchema):
    """Overall state of the system."""

    status = enumeration(("healthy", "degraded", "unhealthy"))
    reasons = fields.List(fields.String(), metadata={"description": "why it is not healthy"})
    nodes = fields.List(fields.Nested(WorkerSchema))
    queues = fields.Nested(WaitingRunsSchema)
    runs = fields.Nested(EndedRunsSchema)
    resources = fields.Nested(ResourcesSchema)
    timestamp = Timestamp()


@blueprint.route("/workers")
@blueprint.paginated(WorkerSchema, "name", str)
def workers(query: dict[str, Any]) -> Sequence[SimpleNamespace]:
    """List workers by name

    A worker leaves the list when it shuts down cleanly, else a day after its last report.
    """
    with transaction() as session:
        return page_of_workers(session, tenant(), worker_alias(), **query)


@blueprint.route("/workers/<name>")
@blueprint.response(200, WorkerSchema)
def worker(name: str) -> SimpleNamespace:
    """Get a worker"""
    with transaction() as session:
        return get_worker(session, tenant(), worker_alias(), name)


@blueprint.route("/queues")
@blueprint.paginated(QueueSchema, "name", str)
def queues(query: dict[str, Any]) -> Sequence[QueueState]:
    """List the queues that your workflows use, by name"""
    with transaction() as session:
        return page_of_queues(session, tenant(), **query)


@blueprint.route("/queues/<name>")
@blueprint.response(200, QueueSchema)
def queue(name: str) -> QueueState:
    """Get a queue"""
    with transaction() as session:
        return get_queue(session, tenant(), name)


@blueprint.route("/system/status")
@blueprint.response(200, SystemStatusSchema)
def status() -> SystemStatus:
    """Get the system at a glance

    It is healthy when the broker answers and an active worker listens to every queue in which
    work of yours is; `reasons` says what is missing.
    """
    broker_answers = services().broker.ping()
    with transaction() as session:
        return system_status(session, tenant(), worker_alias(), broker_answers=broker_answers)
