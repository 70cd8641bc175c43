"""How the native API shows and reads things."""

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from config.durations import format_duration, parse_duration
from orchestrator.models import Attempt, Run, Step
from orchestrator.reruns import As, Mode
from orchestrator.states import RunState


class Strict(Schema):
    """A body or query in which an unknown member is a mistake."""

    class Meta:
        unknown = RAISE


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

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso", default_timezone=UTC, **options)

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


def _seconds(row: Run | Step | Attempt) -> float | None:
    """How long it took, or has taken so far."""
    if row.started_at is None:
        return None
    return round(((row.finished_at or datetime.now(UTC)) - row.started_at).total_seconds(), 6)


def _is_boolean(value: Any) -> None:
    if not isinstance(value, bool):
        raise ValidationError("true or false")


def _longer_than_nothing(timeout: timedelta) -> None:
    if not timeout:
        raise ValidationError("a timeout must be longer than nothing")


def _priority(**options: Any) -> fields.Integer:
    return fields.Integer(strict=True, validate=validate.Range(0, 9), **options)


def _tags() -> fields.List[str]:
    each = fields.String(validate=validate.Length(1, 100))
    return fields.List(each, validate=validate.Length(max=50))


class StepShown(Shown):
    """One step of a run."""

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
    error = fields.Dict(allow_none=True)
    wake_at = Timestamp(allow_none=True)
    queued_at = Timestamp(allow_none=True)
    started_at = Timestamp(allow_none=True)
    finished_at = Timestamp(allow_none=True)
    duration_seconds = Seconds(allow_none=True)


class AttemptShown(Shown):
    """One try of a step."""

    number = fields.Integer()
    worker = fields.String()
    outcome = fields.String(allow_none=True)
    error = fields.Dict(allow_none=True)
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
    trigger = fields.String()
    reason = fields.String(allow_none=True)
    submitted_by = fields.String(allow_none=True)
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


class RunShown(RunListed):
    """One run with its steps."""

    steps = fields.List(fields.Nested(StepShown))


class RunAsked(Strict):
    """What to run."""

    workflow = fields.String(required=True, validate=validate.Length(1, 100))
    version = fields.Integer(strict=True, validate=validate.Range(1, 2**31 - 1), allow_none=True)
    params = fields.Dict(keys=fields.String())
    priority = _priority(allow_none=True)
    run_at = Timestamp(allow_none=True)
    tags = _tags()
    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)
    timeout = Duration(validate=_longer_than_nothing, allow_none=True)


class Keyed(Schema):
    """The same key and body give the same run however often they are sent."""

    idempotency_key = fields.String(
        data_key="Idempotency-Key",
        validate=[
            validate.Length(1, 255),
            validate.Predicate("isprintable", error="not printable"),
        ],
    )


class RunChange(Strict):
    """What may be changed of a run."""

    priority = _priority()
    tags = _tags()


class CancelAsked(Strict):
    """How to stop a run; `force` kills at once, `grace` is what running steps get."""

    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)
    force = fields.Raw(validate=_is_boolean, load_default=False, metadata={"type": "boolean"})
    grace = Duration()


class RetryAsked(Strict):
    """What to run again."""

    mode = fields.Enum(Mode, by_value=True, load_default=Mode.FROM_FAILED)
    step = fields.String()
    where = fields.Enum(As, by_value=True, load_default=As.SAME, data_key="as")
    params = fields.Dict(keys=fields.String(), allow_none=True)
    priority = _priority(allow_none=True)
    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)


class RestartAsked(Strict):
    """With what a step is run again."""

    params = fields.Dict(keys=fields.String(), allow_none=True)
    priority = _priority(allow_none=True)
    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)


class Page(Strict):
    """Which part of a list."""

    cursor = fields.String()
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))


class Wait(Strict):
    """How many seconds to hold the answer until the run has ended."""

    wait = fields.Float(load_default=0, validate=validate.Range(0, 60))


SORTS = ("-created_at", "created_at", "-priority", "priority")


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


class RunFilter(Page):
    """Which runs; a repeated filter means any of its values, repeated tags mean all of them."""

    workflow = fields.List(fields.String())
    state = fields.List(fields.Enum(RunState, by_value=True))
    tag = fields.List(fields.String())
    priority = fields.List(fields.Integer(validate=validate.Range(0, 9)))
    trigger = fields.List(fields.String())
    created_after = Timestamp()
    created_before = Timestamp()
    sort = fields.String(load_default=SORTS[0], validate=validate.OneOf(SORTS))


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
