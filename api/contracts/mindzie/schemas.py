"""How this API shows jobs, and how it says no."""

from marshmallow import fields

from api.contracts.mindzie.reading import Camel, Moment, Word, text
from api.contracts.mindzie.words import JOB_TYPES, PRIORITIES, STATUSES


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
