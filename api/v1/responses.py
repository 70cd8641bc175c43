"""Response schemas that several modules of the native API use."""

from datetime import UTC, datetime
from typing import Any

from marshmallow import fields

from api.toolkit.fields import Duration, Timestamp
from api.toolkit.wire import WireSchema, computed
from orchestrator.runs import CauseCode


def _duration_seconds() -> fields.Float:
    """Seconds from `started_at` to `finished_at`, or until now."""
    return computed(fields.Float, _seconds, allow_none=True)


def _seconds(row: Any) -> float | None:
    if row.started_at is None:
        return None
    seconds: float = ((row.finished_at or datetime.now(UTC)) - row.started_at).total_seconds()
    return round(seconds, 6)


class StepSchema(WireSchema):
    """One step of a run, with the output and resource usage of its last attempt."""

    id = fields.UUID()
    number = fields.Integer()
    key = fields.String()
    name = fields.String()
    uses = fields.String()
    needs = fields.List(fields.String())
    state = fields.String()
    skip_cause = fields.String(allow_none=True)
    attempt = fields.Integer()
    max_attempts = fields.Integer()
    queue = fields.String()
    priority = fields.Integer()
    allow_failure = fields.Boolean()
    worker = fields.String(allow_none=True)
    result = fields.Raw(allow_none=True)
    result_artifact = fields.UUID(
        allow_none=True, metadata={"description": "where a result too large for here is whole"}
    )
    warning_count = fields.Integer(attribute="warnings")
    error = fields.Dict(allow_none=True)
    wake_at = Timestamp(allow_none=True)
    queued_at = Timestamp(allow_none=True)
    started_at = Timestamp(allow_none=True)
    finished_at = Timestamp(allow_none=True)
    duration_seconds = _duration_seconds()
    percent = fields.Integer(allow_none=True)
    stage = fields.String(allow_none=True)
    message = fields.String(allow_none=True)
    metrics = fields.Dict()
    warnings = fields.List(
        fields.Dict(), attribute="warning_list", metadata={"description": "type, message and count"}
    )
    usage = fields.Dict(allow_none=True)


class AttemptSchema(WireSchema):
    """One attempt of a step."""

    number = fields.Integer()
    worker = fields.String()
    outcome = fields.String(allow_none=True)
    error = fields.Dict(allow_none=True)
    usage = fields.Dict(allow_none=True, metadata={"description": "seconds and bytes it took"})
    started_at = Timestamp()
    finished_at = Timestamp(allow_none=True)
    duration_seconds = _duration_seconds()


class EventSchema(WireSchema):
    """One event of a run."""

    seq = fields.Integer()
    type = fields.String()
    step = fields.String(allow_none=True)
    attempt = fields.Integer(allow_none=True)
    data = fields.Dict()
    occurred_at = Timestamp()


class RunSummarySchema(WireSchema):
    """One run of a list."""

    id = fields.UUID()
    number = fields.Integer()
    workflow = fields.String()
    version = fields.Integer()
    state = fields.String()
    priority = fields.Integer()
    queue = fields.String()
    params = fields.Dict()
    tags = fields.List(fields.String())
    project_id = fields.UUID(allow_none=True)
    environment = fields.String()
    name = fields.String(allow_none=True)
    description = fields.String(allow_none=True)
    annotations = fields.Dict()
    trigger = fields.String()
    source_type = fields.String(allow_none=True)
    source_id = fields.String(allow_none=True)
    reason = fields.String(allow_none=True)
    submitted_by = fields.String(allow_none=True)
    run_as = fields.String(allow_none=True)
    variables = fields.Dict(allow_none=True)
    event_variables = fields.Dict(allow_none=True)
    schedule_id = fields.UUID(allow_none=True)
    backfill_id = fields.UUID(allow_none=True)
    logical_date = Timestamp(allow_none=True)
    concurrency_key = fields.String(allow_none=True)
    notifications = fields.Dict(allow_none=True)
    held = fields.Boolean()
    late_at = Timestamp(allow_none=True)
    passed_sla = fields.Boolean()
    warning_count = fields.Integer(attribute="warnings")
    error = fields.Dict(allow_none=True)
    run_at = Timestamp(allow_none=True)
    timeout = Duration(allow_none=True)
    cancel_requested_at = Timestamp(allow_none=True)
    cancel_reason = fields.String(allow_none=True)
    retry_of = fields.UUID(allow_none=True)
    created_at = Timestamp()
    queued_at = Timestamp(allow_none=True)
    started_at = Timestamp(allow_none=True)
    finished_at = Timestamp(allow_none=True)
    duration_seconds = _duration_seconds()


class ProgressSchema(WireSchema):
    """Progress of a run; percent is 100 only once it has succeeded."""

    percent = fields.Integer()
    stage = fields.String(allow_none=True)
    message = fields.String(allow_none=True)
    eta = Timestamp(allow_none=True)


class RunSchema(RunSummarySchema):
    """One run with its steps, their output and resource usage."""

    progress = fields.Nested(ProgressSchema)
    metrics = fields.Dict()
    warnings = fields.List(
        fields.Dict(), attribute="warning_list", metadata={"description": "type, message and count"}
    )
    data = fields.Dict(metadata={"description": "ids that were written, by kind and date"})
    usage = fields.Dict(metadata={"description": "seconds and bytes that all attempts took"})
    queue_position = fields.Integer(allow_none=True)
    estimated_start_at = Timestamp(allow_none=True)
    steps = fields.List(fields.Nested(StepSchema))


class WorkflowSummarySchema(WireSchema):
    """One workflow of a list."""

    id = fields.UUID()
    number = fields.Integer()
    name = fields.String()
    project_id = fields.UUID()
    service = fields.String()
    description = fields.String()
    version = fields.Integer()
    created_at = Timestamp()
    updated_at = Timestamp()


class WorkflowSchema(WorkflowSummarySchema):
    """One workflow with the spec of its version."""

    spec = fields.Dict()


class VersionSchema(WireSchema):
    """One version of a workflow."""

    id = fields.UUID()
    version = fields.Integer(attribute="number")
    spec = fields.Dict()
    created_at = Timestamp()


_CODES = f"one of {', '.join(CauseCode)}"


class CauseSubjectSchema(fields.Dict):
    """Subjects of a cause by name; times as in `Timestamp`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return {
            name: Timestamp()._serialize(each) if isinstance(each, datetime) else each
            for name, each in value.items()
        }


class CauseSchema(WireSchema):
    """Why a run or step does not proceed, or that it does."""

    code = fields.String(metadata={"description": _CODES})
    text = fields.String()
    about = CauseSubjectSchema(metadata={"description": "who or what it is about, by name"})


class StepCauseSchema(WireSchema):
    """A step and its cause."""

    key = fields.String()
    state = fields.String()
    cause = fields.Nested(CauseSchema)


class ExplanationSchema(WireSchema):
    """A run, its cause, and the causes of its steps."""

    run_id = fields.UUID()
    state = fields.String()
    cause = fields.Nested(CauseSchema)
    steps = fields.List(fields.Nested(StepCauseSchema))
