"""How this API shows the system and its queue."""

from marshmallow import fields

from api.contracts.mindzie.reading import Camel, Moment, Word, text
from api.contracts.mindzie.words import HEALTH, JOB_TYPES, NODES, PRIORITIES


class NodeShown(Camel):
    """One worker; processor and memory are those of its host."""

    node_id = fields.String()
    status = Word(NODES.values())
    cpu_usage = fields.Integer(metadata={"description": "percent"})
    memory_usage = fields.Integer(metadata={"description": "percent"})
    active_jobs = fields.Integer(metadata={"description": "steps that it executes"})
    job_capacity = fields.Integer()


class QueueStatistics(Camel):
    """The jobs that wait; critical ones count as high."""

    total_queued_jobs = fields.Integer()
    high_priority_jobs = fields.Integer()
    normal_priority_jobs = fields.Integer()
    low_priority_jobs = fields.Integer()
    average_wait_time = text("as in `5 minutes`, or `unknown`")
    estimated_processing_time = text("until all are done, or `unknown`")


class PerformanceMetrics(Camel):
    """What ended today (UTC)."""

    jobs_completed_today = fields.Integer()
    average_job_duration = fields.String()
    success_rate = fields.Float(metadata={"description": "percent"})
    throughput_per_hour = fields.Float(metadata={"description": "jobs of the last hour"})


class ResourceUtilization(Camel):
    """What the hosts have together."""

    total_cpu_capacity = fields.Integer(metadata={"description": "CPUs"})
    used_cpu_capacity = fields.Integer(metadata={"description": "CPUs"})
    total_memory_capacity = fields.String()
    used_memory_capacity = fields.String()
    disk_space_available = fields.String()


class StatusShown(Camel):
    """The whole system at a glance."""

    system_status = Word(HEALTH.values())
    timestamp = Moment()
    execution_nodes = fields.List(fields.Nested(NodeShown))
    queue_statistics = fields.Nested(QueueStatistics)
    performance_metrics = fields.Nested(PerformanceMetrics)
    resource_utilization = fields.Nested(ResourceUtilization)


class QueueSummary(Camel):
    """How many jobs of the tenant wait for their turn, by priority."""

    total_queued_jobs = fields.Integer()
    critical_priority_jobs = fields.Integer()
    high_priority_jobs = fields.Integer()
    normal_priority_jobs = fields.Integer()
    low_priority_jobs = fields.Integer()
    average_wait_time = fields.String()
    estimated_processing_time = fields.String()


class CapacityShown(Camel):
    """What the workers can do at once."""

    active_workers = fields.Integer()
    total_workers = fields.Integer()
    current_load = fields.Integer(metadata={"description": "percent"})
    max_concurrent_jobs = fields.Integer()
    currently_running = fields.Integer()


class QueuedShown(Camel):
    """One job that waits; the last two members only with estimates."""

    job_id = fields.UUID()
    job_name = fields.String()
    job_type = Word(JOB_TYPES)
    priority = Word(PRIORITIES)
    queue_position = fields.Integer()
    submitted_by = fields.String()
    date_submitted = Moment()
    resource_name = fields.String()
    estimated_start_time = Moment(allow_none=True)
    estimated_duration = fields.String()


class QueueShown(Camel):
    """The queue, as its first jobs in their order."""

    queue_status = Word(("Active", "Stalled"))
    timestamp = Moment()
    summary = fields.Nested(QueueSummary)
    processing_capacity = fields.Nested(CapacityShown)
    queued_jobs = fields.List(fields.Nested(QueuedShown))
