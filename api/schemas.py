"""How the native API shows things."""

import functools
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from marshmallow import Schema, ValidationError, fields

from config.durations import format_duration, parse_duration


class Shown(Schema):
    """A row as the API shows it.

    Its fields say what the documentation has; the row is read by attribute, because marshmallow's
    general way took more time than everything else in the answer to a poll.
    """

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """The row, or the rows, as JSON's types."""
        if self.many if many is None else many:
            return [self._one(each) for each in obj]
        return self._one(obj)

    def _one(self, row: Any) -> dict[str, Any]:
        read = row.get if isinstance(row, dict) else functools.partial(getattr, row)
        return {
            field.data_key or name: _seconds(row)
            if isinstance(field, Seconds)
            else _plain(field, read(field.attribute or name))
            for name, field in self.dump_fields.items()
        }


class Seconds(fields.Float):
    """How long a row took, or has taken so far."""


def _plain(field: fields.Field[Any], value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    return field._serialize(value, None, None)


class Timestamp(fields.AwareDateTime):
    """RFC 3339 in UTC with microseconds."""

    default_error_messages = {  # noqa: RUF012 - marshmallow's own way
        "invalid": "not a time; write it as in 2027-01-31T09:00:00Z or 2027-01-31T09:00:00+01:00",
        "invalid_awareness": "without an offset; write it as in 2027-01-31T09:00:00+01:00",
    }

    def __init__(self, *, default_timezone: tzinfo | None = UTC, **options: Any) -> None:
        super().__init__(format="iso", default_timezone=default_timezone, **options)

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def _deserialize(self, value: Any, *given: Any, **more: Any) -> datetime:
        read: datetime = super()._deserialize(value, *given, **more)
        try:
            return read.astimezone(UTC)
        except OverflowError:
            raise ValidationError("outside of the years 1 to 9999") from None


class Duration(fields.Field[timedelta]):
    """`6`, `6s`, `500ms`, `2m` or `1h30m`."""

    def _serialize(self, value: timedelta | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else format_duration(value)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None


def _seconds(row: Any) -> float | None:
    """How long it took, or has taken so far."""
    if row.started_at is None:
        return None
    end: datetime = row.finished_at or datetime.now(UTC)
    seconds: float = (end - row.started_at).total_seconds()
    return round(seconds, 6)


class StepShown(Shown):
    """One step of a run, with what it said and took in its last attempt."""

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
    duration_seconds = Seconds(allow_none=True)
    percent = fields.Integer(allow_none=True)
    stage = fields.String(allow_none=True)
    message = fields.String(allow_none=True)
    metrics = fields.Dict()
    warnings = fields.List(
        fields.Dict(), attribute="warned", metadata={"description": "type, message and count"}
    )
    usage = fields.Dict(allow_none=True)


class AttemptShown(Shown):
    """One try of a step."""

    number = fields.Integer()
    worker = fields.String()
    outcome = fields.String(allow_none=True)
    error = fields.Dict(allow_none=True)
    usage = fields.Dict(allow_none=True, metadata={"description": "seconds and bytes it took"})
    started_at = Timestamp()
    finished_at = Timestamp(allow_none=True)
    duration_seconds = Seconds(allow_none=True)


class EventShown(Shown):
    """Something that happened to a run."""

    seq = fields.Integer()
    type = fields.String()
    step = fields.String(allow_none=True)
    attempt = fields.Integer(allow_none=True)
    data = fields.Dict()
    occurred_at = Timestamp()


class RunListed(Shown):
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
    duration_seconds = Seconds(allow_none=True)


class ProgressShown(Shown):
    """How far a run is; percent is 100 only once it has succeeded."""

    percent = fields.Integer()
    stage = fields.String(allow_none=True)
    message = fields.String(allow_none=True)
    eta = Timestamp(allow_none=True)


class RunShown(RunListed):
    """One run with its steps, and all that they said, left and took."""

    progress = fields.Nested(ProgressShown)
    metrics = fields.Dict()
    warnings = fields.List(
        fields.Dict(), attribute="warned", metadata={"description": "type, message and count"}
    )
    data = fields.Dict(metadata={"description": "ids that were written, by kind and date"})
    usage = fields.Dict(metadata={"description": "seconds and bytes that all attempts took"})
    queue_position = fields.Integer(allow_none=True)
    estimated_start_at = Timestamp(allow_none=True)
    steps = fields.List(fields.Nested(StepShown))


class MistakeShown(Schema):
    """One thing that is wrong."""

    pointer = fields.String(metadata={"description": "where, as a JSON pointer"})
    detail = fields.String(metadata={"description": "what would be right"})


class ProblemShown(Schema):
    """Why a request was refused (RFC 9457)."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    code = fields.String(metadata={"description": "stays the same for the same reason"})
    detail = fields.String()
    errors = fields.List(fields.Nested(MistakeShown))


class RunPage(Schema):
    """One page of runs; `next_cursor` is null on the last one."""

    items = fields.List(fields.Nested(RunListed))
    next_cursor = fields.String(allow_none=True)


class EventPage(Schema):
    """One page of a run's history."""

    items = fields.List(fields.Nested(EventShown))
    next_cursor = fields.String(allow_none=True)


class WorkflowListed(Shown):
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


class WorkflowShown(WorkflowListed):
    """One workflow with the spec of its version."""

    spec = fields.Dict()


class WorkflowPage(Schema):
    """One page of workflows."""

    items = fields.List(fields.Nested(WorkflowListed))
    next_cursor = fields.String(allow_none=True)


class VersionShown(Shown):
    """One version of a workflow."""

    id = fields.UUID()
    version = fields.Integer(attribute="number")
    spec = fields.Dict()
    created_at = Timestamp()


class VersionPage(Schema):
    """One page of versions, latest first."""

    items = fields.List(fields.Nested(VersionShown))
    next_cursor = fields.String(allow_none=True)
