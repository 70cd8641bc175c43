"""The responses of this API. Parts of a response are read from the same view as the whole."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from marshmallow import fields, missing

from api.contracts.mindzie import formatting, mapping, vocabulary
from api.contracts.mindzie.fields import Moment, ResponseSchema, Word
from api.contracts.mindzie.vocabulary import HEALTH, NODES, OUTPUT_TYPES, PRIORITIES, STATES
from api.toolkit.context import shown_worker
from api.toolkit.wire import computed, constant, described, optional
from orchestrator.states import RunState

_text = partial(described, fields.String)
_integer, _string = partial(computed, fields.Integer), partial(computed, fields.String)


def _part(
    schema: type[ResponseSchema], condition: Callable[[Any], bool] | None = None, **options: Any
) -> fields.Field[Any]:
    """A member read from the same view; absent unless the condition, if there is one, holds."""
    nested = fields.Nested(schema, **options)
    if condition is None:
        return computed(nested, lambda view: view)
    return optional(computed(nested, lambda view: view if condition(view) else missing))


def _if_known(
    kind: type[fields.Field[Any]], compute: Callable[[Any], Any], *description: str
) -> fields.Field[Any]:
    """A member that is absent where its value is None."""

    def present(view: Any) -> Any:
        value = compute(view)
        return missing if value is None else value

    return optional(computed(kind, present, *description))


def _jobs_in(status: str) -> fields.Field[Any]:
    states = STATES.states(status)
    return _integer(lambda counts: sum(counts.get(state, 0) for state in states))


def _lines_of(level: str) -> fields.Field[Any]:
    return _integer(lambda view: sum(entry.level == level for entry in view.entries))


def _queued(*priorities: str) -> fields.Field[Any]:
    return _integer(lambda system: mapping.queued_jobs(system, *priorities))


def _resource_size(name: str) -> fields.Field[Any]:
    return _string(lambda system: formatting.size(system.resources[name]))


# Members of several responses about a job.
_JOB_ID = fields.UUID(attribute="run.id")
_JOB_TYPE = computed(
    Word(vocabulary.JOB_TYPES), lambda job: vocabulary.job_type_of(job.run.annotations)
)
_JOB_NAME = _string(lambda job: job.run.name or job.run.workflow)
_STATUS = computed(Word(STATES.words), lambda job: STATES[job.run.state])
_PRIORITY = computed(Word(PRIORITIES), lambda job: vocabulary.priority_of(job.run.priority))
_SUBMITTED_BY = _string(lambda job: job.run.submitted_by or vocabulary.SYSTEM)
_CREATED_AT = Moment(attribute="run.created_at")
_START_TIME = Moment(allow_none=True, attribute="run.started_at")
_RESOURCE_NAME = fields.String()
_RECORDS_PROCESSED = _integer(lambda job: job.count("records_processed"))
# Members of both responses about a queue.
_AVERAGE_WAIT = _string(
    lambda system: formatting.average(system.queues["average_wait_seconds"]),
    "as in `4.2 minutes`, or `unknown`",
)
_DRAIN_TIME = _string(
    lambda system: formatting.average(mapping.drain_seconds(system)),
    "until all are done, or `unknown`",
)


class JobError(ResponseSchema):
    code = _text("`timeout`, `step_failed` or `failed`", attribute="error_code")
    message = fields.String(attribute="error_message")
    stage = _text("where", attribute="failed_stage", allow_none=True)


class Progress(ResponseSchema):
    """How far a job is; every member is there in every state."""

    percentage = described(fields.Integer, "0 to 100", attribute="output.percent")
    current_stage = fields.String()
    estimated_completion = Moment("null unless it runs and can be told", allow_none=True)
    elapsed_time = _text("as in `8 minutes 32 seconds`", attribute="duration")


class Resource(ResponseSchema):
    resource_type = _string(lambda job: vocabulary.resource_type_of(job.run.annotations))
    resource_id = fields.UUID(attribute="run.workflow_id")
    resource_name = _RESOURCE_NAME


class Execution(ResponseSchema):
    start_time = _START_TIME
    submitted_by = _SUBMITTED_BY
    execution_node = computed(
        fields.String,
        lambda job: shown_worker(job.output.worker),
        "of its latest step",
        allow_none=True,
    )
    memory_usage = _text("the most at once, as in `2.1 GB`", allow_none=True)
    cpu_usage = _text("of one CPU on average, as in `45%`", allow_none=True)
    disk_usage = _text("read and written, as in `2.1 GB`", allow_none=True)


class Metrics(ResponseSchema):
    """What a job counted; never null."""

    records_processed = _RECORDS_PROCESSED
    total_records = fields.Integer()
    error_count = _integer(lambda job: job.count("error_count"))
    warning_count = _integer(lambda job: job.run.warnings + len(job.unsent_mail))
    average_processing_rate = _string(
        lambda job: formatting.rate(job.count("records_processed"), job.seconds),
        "as in `1250 records/second`",
    )


class Job(ResponseSchema):
    job_id = _JOB_ID
    project_id = fields.UUID(attribute="run.project_id")
    job_type = _JOB_TYPE
    job_name = _JOB_NAME
    job_description = fields.String(allow_none=True, attribute="run.description")
    status = _STATUS
    priority = _PRIORITY
    progress = _part(Progress)
    resource = _part(Resource)
    execution = _part(Execution)
    metrics = _part(Metrics)
    date_created = _CREATED_AT
    last_updated = Moment(attribute="updated_at")
    error = _part(
        JobError, lambda job: job.has_failed, metadata={"description": "only of a failed job"}
    )


class JobItem(ResponseSchema):
    job_id = _JOB_ID
    job_type = _JOB_TYPE
    job_name = _JOB_NAME
    status = _STATUS
    priority = _PRIORITY
    progress = described(fields.Integer, "0 to 100", attribute="output.percent")
    start_time = _START_TIME
    estimated_completion = optional(
        computed(
            Moment("only while it runs", allow_none=True),
            lambda job: (
                missing if job.has_ended or not job.run.started_at else job.estimated_completion
            ),
        )
    )
    end_time = optional(
        computed(
            Moment("only of one that has ended"),
            lambda job: job.run.finished_at if job.has_ended else missing,
        )
    )
    duration = optional(
        _string(
            lambda job: job.duration if job.has_ended else missing,
            "as in `23 minutes`; only of one that has ended",
        )
    )
    submitted_by = _SUBMITTED_BY
    resource_name = _RESOURCE_NAME


class JobsSummary(ResponseSchema):
    """How many jobs the project has, whatever was asked for; cancelled ones are in the total."""

    total_jobs = _integer(lambda counts: sum(counts.values()))
    running_jobs = _jobs_in("Running")
    queued_jobs = _jobs_in("Queued")
    completed_jobs = _jobs_in("Completed")
    failed_jobs = _jobs_in("Failed")


class JobPage(ResponseSchema):
    jobs = fields.List(fields.Nested(JobItem))
    summary = fields.Nested(JobsSummary)
    page = fields.Integer()
    page_size = fields.Integer()
    has_next_page = fields.Boolean()


class JobAccepted(ResponseSchema):
    job_id = _JOB_ID
    status = _STATUS
    queue_position = _integer(
        lambda job: job.waiting.position if job.waiting else 0,
        "1 goes first; 0: it is not in the queue yet, or no more",
    )
    estimated_start_time = Moment("null when nothing can tell", allow_none=True)
    estimated_duration = _text("as in `45-60 minutes`, or `unknown`")
    job_name = _JOB_NAME
    priority = _PRIORITY
    date_submitted = _CREATED_AT
    submitted_by = _SUBMITTED_BY


class Retry(ResponseSchema):
    original_job_id = fields.UUID(attribute="run.retry_of")
    attempt = described(fields.Integer, "2 for the first retry")
    retry_reason = fields.String(allow_none=True, attribute="run.reason")


class RetryAccepted(JobAccepted):
    """A new job that repeats a failed one."""

    retry = _part(Retry)


class Cancellation(ResponseSchema):
    """That a job was told to stop."""

    job_id = fields.UUID(attribute="id")
    status = constant(Word(("Cancelled",)), "Cancelled")
    reason = fields.String(allow_none=True, attribute="cancel_reason")
    partial_results_preserved = computed(
        fields.Boolean, lambda run: vocabulary.is_preserved(run.annotations)
    )
    date_cancelled = Moment(attribute="cancel_requested_at")


class Output(ResponseSchema):
    type = computed(Word(OUTPUT_TYPES.values()), lambda output: OUTPUT_TYPES[output.row.kind])
    title = fields.String(attribute="row.title")
    format = _string(lambda output: mapping.format_of(output.row), "as in `csv`")
    size = _string(lambda output: formatting.size(output.row.size), "as in `2.3 MB`")
    download_url = _if_known(
        fields.String,
        lambda output: output.url,
        "of a file good for an hour without a key; not with includeArtifacts=false",
    )
    record_count = _if_known(fields.Integer, lambda output: output.row.records)
    accuracy = _if_known(fields.Float, lambda output: mapping.accuracy_of(output.row))


class Outputs(ResponseSchema):
    """What it left. The primary output of a completed job without any file is its numbers as JSON;
    of a job that has failed or was cancelled it is null.
    """

    primary_output = fields.Nested(Output, allow_none=True, attribute="primary")
    additional_outputs = computed(
        fields.List(fields.Nested(Output)),
        lambda view: [output for output in view.outputs if output is not view.primary],
    )


class ResultSummary(ResponseSchema):
    """The results in numbers; scores go from 0 to 100."""

    records_processed = _RECORDS_PROCESSED
    outputs_generated = fields.Integer(attribute="output_count")
    data_quality_score = described(fields.Float, "as the job said, else the share of valid records")
    processing_efficiency = described(
        fields.Float, "as the job said, else the share of its time that a CPU worked"
    )


class ExecutionMetrics(ResponseSchema):
    total_cpu_time = _string(
        lambda job: formatting.average(job.output.usage.get("cpu_seconds", 0)),
        "as in `38.5 minutes`",
    )
    peak_memory_usage = _string(
        lambda job: formatting.size(job.output.usage.get("peak_memory_bytes", 0)), "as in `2.1 GB`"
    )
    disk_io_operations = _integer(lambda job: int(job.output.usage.get("io_operations", 0)))
    network_data_transfer = _string(
        lambda job: formatting.size(job.count("network_bytes")),
        "as the job said in its metric networkBytes, else `0 B`",
    )


class DataValidation(ResponseSchema):
    total_records = fields.Integer()
    valid_records = fields.Integer()
    duplicates_removed = _integer(lambda job: job.count("duplicates_removed"))
    invalid_records = fields.Integer()


class ResultWarning(ResponseSchema):
    """One kind of warning."""

    type = fields.String()
    message = fields.String()
    count = fields.Integer()


class QualityMetrics(ResponseSchema):
    data_validation = _part(DataValidation)
    processing_errors = computed(
        fields.List(fields.Nested(JobError)), lambda job: [job] if job.has_failed else []
    )
    warnings = computed(
        fields.List(fields.Nested(ResultWarning)), lambda job: job.output.warnings + job.unsent_mail
    )


class Results(ResponseSchema):
    """What a job that has ended left; the last two members only with format=detailed."""

    job_id = _JOB_ID
    status = _STATUS
    completion_time = Moment(attribute="run.finished_at")
    total_duration = fields.String(attribute="duration")
    success = computed(fields.Boolean, lambda job: job.run.state == RunState.SUCCEEDED)
    summary = _part(ResultSummary)
    results = optional(_part(Outputs))  # the report of a job without files has none
    execution_metrics = _part(ExecutionMetrics, lambda job: job.detailed)
    quality_metrics = _part(QualityMetrics, lambda job: job.detailed)


class LogEntry(ResponseSchema):
    timestamp = computed(
        Moment(), lambda entry: datetime.fromtimestamp(entry.line.time_ns // 10**9, UTC)
    )
    level = Word(vocabulary.LEVELS)
    component = _text("the key of the step", attribute="line.step")
    stage = _text("the name of the step")
    message = fields.String(attribute="line.text")
    details = computed(
        fields.Dict,
        lambda entry: {"attempt": entry.line.attempt},
        "attempt: the how many-th try of the step",
    )


class LogsSummary(ResponseSchema):
    """How many of the lines shown have each level."""

    total_entries = _integer(lambda view: len(view.entries))
    debug_count = _lines_of("DEBUG")
    info_count = _lines_of("INFO")
    warning_count = _lines_of("WARN")
    error_count = _lines_of("ERROR")
    truncated = described(fields.Boolean, "the job said more than is kept")


class Logs(ResponseSchema):
    job_id = _JOB_ID
    job_name = _JOB_NAME
    job_status = _STATUS
    logs_summary = _part(LogsSummary)
    logs = fields.List(fields.Nested(LogEntry), attribute="entries")


class Node(ResponseSchema):
    """One worker; processor and memory are those of its host."""

    node_id = fields.String(attribute="name")
    status = computed(Word(NODES.values()), lambda node: NODES[node.status])
    cpu_usage = _integer(lambda node: round(node.usage.get("cpu_percent", 0)), "percent")
    memory_usage = _integer(mapping.memory_percent, "percent")
    active_jobs = described(fields.Integer, "steps that it executes", attribute="active")
    job_capacity = fields.Integer(attribute="capacity")


class QueueStatistics(ResponseSchema):
    """The jobs that wait; critical ones count as high."""

    total_queued_jobs = _queued()
    high_priority_jobs = _queued("High", "Critical")
    normal_priority_jobs = _queued("Normal")
    low_priority_jobs = _queued("Low")
    average_wait_time = _AVERAGE_WAIT
    estimated_processing_time = _DRAIN_TIME


class PerformanceMetrics(ResponseSchema):
    """What ended today (UTC)."""

    jobs_completed_today = _integer(lambda system: system.runs["succeeded_today"])
    average_job_duration = _string(
        lambda system: formatting.average(system.runs["mean_duration_seconds"])
    )
    success_rate = computed(fields.Float, mapping.success_percent, "percent")
    throughput_per_hour = computed(
        fields.Float,
        lambda system: float(system.runs["throughput_per_hour"]),
        "jobs of the last hour",
    )


class ResourceUtilization(ResponseSchema):
    """What the hosts have together."""

    total_cpu_capacity = _integer(
        lambda system: 100 * int(system.resources["cpus"]), "percent of one CPU"
    )
    used_cpu_capacity = _integer(
        lambda system: round(100 * system.resources["cpu_used"]), "of that"
    )
    total_memory_capacity = _resource_size("memory_total")
    used_memory_capacity = _resource_size("memory_used")
    disk_space_available = _resource_size("disk_free")


class Status(ResponseSchema):
    system_status = computed(Word(HEALTH.values()), lambda system: HEALTH[system.status])
    timestamp = Moment()
    execution_nodes = fields.List(fields.Nested(Node), attribute="nodes")
    queue_statistics = _part(QueueStatistics)
    performance_metrics = _part(PerformanceMetrics)
    resource_utilization = _part(ResourceUtilization)


class QueueSummary(ResponseSchema):
    """How many jobs of the tenant wait for their turn, by priority."""

    total_queued_jobs = _queued()
    critical_priority_jobs = _queued("Critical")
    high_priority_jobs = _queued("High")
    normal_priority_jobs = _queued("Normal")
    low_priority_jobs = _queued("Low")
    average_wait_time = _AVERAGE_WAIT
    estimated_processing_time = _DRAIN_TIME


class Capacity(ResponseSchema):
    active_workers = _integer(lambda queue: len(queue.active))
    total_workers = _integer(
        lambda queue: sum(node.status != "offline" for node in queue.system.nodes)
    )
    current_load = _integer(
        lambda queue: round(100 * queue.running / queue.capacity) if queue.capacity else 0,
        "percent",
    )
    max_concurrent_jobs = fields.Integer(attribute="capacity")
    currently_running = fields.Integer(attribute="running")


class QueuedJob(ResponseSchema):
    """One job that waits; the last two members only with estimates."""

    job_id = _JOB_ID
    job_name = _JOB_NAME
    job_type = _JOB_TYPE
    priority = _PRIORITY
    queue_position = fields.Integer(attribute="waiting.position")
    submitted_by = _SUBMITTED_BY
    date_submitted = _CREATED_AT
    resource_name = _RESOURCE_NAME
    estimated_start_time = optional(Moment(allow_none=True))
    estimated_duration = optional(fields.String())


class Queue(ResponseSchema):
    """The queue, as its first jobs in their order."""

    queue_status = computed(
        Word(("Active", "Stalled")), lambda queue: "Active" if queue.active else "Stalled"
    )
    timestamp = computed(Moment(), lambda _: datetime.now(UTC))
    summary = fields.Nested(QueueSummary, attribute="system")
    processing_capacity = _part(Capacity)
    queued_jobs = fields.List(fields.Nested(QueuedJob), attribute="jobs")
