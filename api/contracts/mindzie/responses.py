"""How this API shows jobs, and how it says no."""

from marshmallow import fields

from api.contracts.mindzie.fields import Camel, Moment, Word, text
from api.contracts.mindzie.vocabulary import (
    HEALTH,
    JOB_TYPES,
    LEVELS,
    NODES,
    OUTPUT_TYPES,
    PRIORITIES,
    STATUSES,
)


class ErrorMade(Camel):
    """What a failed job tells."""

    code = text("`timeout`, `step_failed` or `failed`")
    message = fields.String()
    stage = text("where", null=True)


class ProgressShown(Camel):
    """How far a job is; every member is there in every state."""

    percentage = fields.Integer(metadata={"description": "0 to 100"})
    current_stage = fields.String()
    estimated_completion = Moment("null unless it runs and can be told", allow_none=True)
    elapsed_time = text("as in `8 minutes 32 seconds`")


class ResourceShown(Camel):
    """What a job works with."""

    resource_type = fields.String()
    resource_id = fields.UUID()
    resource_name = fields.String()


class ExecutionShown(Camel):
    """Where a job runs, and what it takes."""

    start_time = Moment(allow_none=True)
    submitted_by = fields.String()
    execution_node = text("of its latest step", null=True)
    memory_usage = text("the most at once, as in `2.1 GB`", null=True)
    cpu_usage = text("of one CPU on average, as in `45%`", null=True)
    disk_usage = text("read and written, as in `2.1 GB`", null=True)


class MetricsShown(Camel):
    """What a job counted; never null."""

    records_processed = fields.Integer()
    total_records = fields.Integer()
    error_count = fields.Integer()
    warning_count = fields.Integer()
    average_processing_rate = text("as in `1250 records/second`")


class JobShown(Camel):
    """One job."""

    job_id = fields.UUID()
    project_id = fields.UUID()
    job_type = Word(JOB_TYPES)
    job_name = fields.String()
    job_description = fields.String(allow_none=True)
    status = Word(STATUSES)
    priority = Word(PRIORITIES)
    progress = fields.Nested(ProgressShown)
    resource = fields.Nested(ResourceShown)
    execution = fields.Nested(ExecutionShown)
    metrics = fields.Nested(MetricsShown)
    date_created = Moment()
    last_updated = Moment()
    error = fields.Nested(ErrorMade, metadata={"description": "only of a failed job"})


class JobListed(Camel):
    """One job of a list."""

    job_id = fields.UUID()
    job_type = Word(JOB_TYPES)
    job_name = fields.String()
    status = Word(STATUSES)
    priority = Word(PRIORITIES)
    progress = fields.Integer(metadata={"description": "0 to 100"})
    start_time = Moment(allow_none=True)
    estimated_completion = Moment("only while it runs", allow_none=True)
    end_time = Moment("only of one that has ended")
    duration = text("as in `23 minutes`; only of one that has ended")
    submitted_by = fields.String()
    resource_name = fields.String()


class SummaryShown(Camel):
    """How many jobs the project has, whatever was asked for; cancelled ones are in the total."""

    total_jobs = fields.Integer()
    running_jobs = fields.Integer()
    queued_jobs = fields.Integer()
    completed_jobs = fields.Integer()
    failed_jobs = fields.Integer()


class JobsShown(Camel):
    """One page of jobs."""

    jobs = fields.List(fields.Nested(JobListed))
    summary = fields.Nested(SummaryShown)
    page = fields.Integer()
    page_size = fields.Integer()
    has_next_page = fields.Boolean()


class JobAccepted(Camel):
    """A job that was accepted."""

    job_id = fields.UUID()
    status = Word(STATUSES)
    queue_position = fields.Integer(
        metadata={"description": "1 goes first; 0: it is not in the queue yet, or no more"}
    )
    estimated_start_time = Moment("null when nothing can tell", allow_none=True)
    estimated_duration = text("as in `45-60 minutes`, or `unknown`")
    job_name = fields.String()
    priority = Word(PRIORITIES)
    date_submitted = Moment()
    submitted_by = fields.String()


class RetryShown(Camel):
    """What a job repeats."""

    original_job_id = fields.UUID()
    attempt = fields.Integer(metadata={"description": "2 for the first retry"})
    retry_reason = fields.String(allow_none=True)


class RetryAccepted(JobAccepted):
    """A new job that repeats a failed one."""

    retry = fields.Nested(RetryShown)


class CancelShown(Camel):
    """That a job was told to stop."""

    job_id = fields.UUID()
    status = Word(("Cancelled",))
    reason = fields.String(allow_none=True)
    partial_results_preserved = fields.Boolean()
    date_cancelled = Moment()


class ErrorTold(Camel):
    """What is wrong with a request."""

    code = text("stays the same for the same reason")
    message = fields.String()
    details = fields.Dict(metadata={"description": "errors with field and message, or status"})
    timestamp = Moment()
    request_id = text("also in the header X-Request-Id")


class Refusal(Camel):
    """Why a request was refused."""

    error = fields.Nested(ErrorTold)
    job_id = text("of the address, when it has one")


class OutputShown(Camel):
    """A file that a job made."""

    type = Word(OUTPUT_TYPES.values())
    title = fields.String()
    format = text("as in `CSV`")
    size = text("as in `2.3 MB`")
    download_url = text("good for an hour without a key; not with includeArtifacts=false")
    record_count = fields.Integer()
    accuracy = fields.Float()


class OutputsShown(Camel):
    """The files that a job made."""

    primary_output = fields.Nested(OutputShown, allow_none=True)
    additional_outputs = fields.List(fields.Nested(OutputShown))


class ResultSummary(Camel):
    """The results in numbers; scores go from 0 to 100."""

    records_processed = fields.Integer()
    outputs_generated = fields.Integer()
    data_quality_score = fields.Float(
        metadata={"description": "as the job said, else the share of valid records"}
    )
    processing_efficiency = fields.Float(
        metadata={"description": "as the job said, else the share of its time that a CPU worked"}
    )


class ExecutionMetrics(Camel):
    """What the job took."""

    total_cpu_time = text("as in `8 minutes 32 seconds`")
    peak_memory_usage = text("as in `2.1 GB`")
    disk_io_operations = fields.Integer()
    network_data_transfer = text("as the job said in its metric networkBytes, else `0 B`")


class DataValidation(Camel):
    """What became of the records."""

    total_records = fields.Integer()
    valid_records = fields.Integer()
    duplicates_removed = fields.Integer()
    invalid_records = fields.Integer()


class WarningShown(Camel):
    """One kind of warning."""

    type = fields.String()
    message = fields.String()
    count = fields.Integer()


class QualityMetrics(Camel):
    """How good the results are."""

    data_validation = fields.Nested(DataValidation)
    processing_errors = fields.List(fields.Nested(ErrorMade))
    warnings = fields.List(fields.Nested(WarningShown))


class ResultsShown(Camel):
    """What a job that has ended left; the last two members only with format=detailed."""

    job_id = fields.UUID()
    status = Word(STATUSES)
    completion_time = Moment()
    total_duration = fields.String()
    success = fields.Boolean()
    summary = fields.Nested(ResultSummary)
    results = fields.Nested(OutputsShown)
    execution_metrics = fields.Nested(ExecutionMetrics)
    quality_metrics = fields.Nested(QualityMetrics)


class LogEntry(Camel):
    """One line of a log."""

    timestamp = Moment()
    level = Word(LEVELS)
    component = text("the key of the step")
    stage = text("the name of the step")
    message = fields.String()
    details = fields.Dict(metadata={"description": "attempt: the how many-th try of the step"})


class LogsSummary(Camel):
    """How many of the lines shown have each level."""

    total_entries = fields.Integer()
    debug_count = fields.Integer()
    info_count = fields.Integer()
    warning_count = fields.Integer()
    error_count = fields.Integer()
    truncated = fields.Boolean(metadata={"description": "the job said more than is kept"})


class LogsShown(Camel):
    """The log of a job."""

    job_id = fields.UUID()
    job_name = fields.String()
    job_status = Word(STATUSES)
    logs_summary = fields.Nested(LogsSummary)
    logs = fields.List(fields.Nested(LogEntry))


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
