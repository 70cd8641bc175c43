"""How this API shows what a job left and said."""

from marshmallow import fields

from api.contracts.mindzie.reading import Camel, Moment, Word, text
from api.contracts.mindzie.schemas import ErrorMade
from api.contracts.mindzie.words import LEVELS, OUTPUT_TYPES, STATUSES


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
