"""The queries and bodies of the API."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, fields, pre_load, validate

from api.contracts.mage.responses import Moment
from api.contracts.mage.vocabulary import SCHEDULE_STATUSES, SCHEDULE_TYPES, SORT_COLUMNS, STATES
from api.toolkit.fields import BoundedDict, BoundedList

_DEFAULT_LIMIT, _MAX_LIMIT = 40, 1000  # rows of a page
_MAX_RUNS = 100  # named in one request
_MAX_RUNNING = 1000  # of a trigger
_MAX_SECONDS = 10 * 365 * 86400
_MAX_EPOCH = 253_402_300_799  # the end of the year 9999


class RequestSchema(Schema):
    """A body or query; unknown members are ignored."""

    class Meta:
        unknown = EXCLUDE


class PageQuery(RequestSchema):
    """Which part of a list; an empty parameter counts as missing."""

    @pre_load
    def _drop_empty(self, query: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        return {name: query[name] for name in query if query[name] != ""}

    limit = fields.Integer(
        data_key="_limit", load_default=_DEFAULT_LIMIT, validate=validate.Range(0, _MAX_LIMIT)
    )
    offset = fields.Integer(
        data_key="_offset", load_default=0, validate=validate.Range(0, 2**31 - 1)
    )


class Epoch(fields.Field[datetime]):
    """Seconds since 1970."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1
        if not 0 <= seconds <= _MAX_EPOCH:
            raise ValidationError("not seconds since 1970, as in 1775109600")
        return datetime.fromtimestamp(seconds, UTC)


class RunQuery(PageQuery):
    """Which pipeline runs; names that end in [] take several values with commas between them."""

    status = fields.String(metadata={"enum": [*STATES.words, "last_run_failed"]})
    statuses = BoundedList(fields.String(), data_key="status[]")
    pipeline_uuid = fields.String()
    pipeline_uuids = BoundedList(fields.String(), data_key="pipeline_uuid[]")
    pipeline_tags = BoundedList(
        fields.String(),
        data_key="pipeline_tag[]",
        metadata={"description": "of the pipeline as it is now; one of them is enough"},
    )
    backfill_id = fields.Integer()
    start_timestamp = Epoch(metadata={"description": "created then or later, in epoch seconds"})
    end_timestamp = Epoch(metadata={"description": "created then or earlier, in epoch seconds"})
    order_by = BoundedList(
        fields.String(),
        data_key="order_by[]",
        metadata={"description": f"one of {', '.join(SORT_COLUMNS)}, then `asc` or `desc`"},
    )


class BlockQuery(PageQuery):
    pipeline_run_id = fields.String(required=True)


class ScheduleQuery(PageQuery):
    pipeline_uuid = fields.String()
    status = fields.String(validate=validate.OneOf(SCHEDULE_STATUSES))


class PipelineQuery(PageQuery):
    """Which pipelines; by default all of them, up to 1,000."""

    limit = fields.Integer(
        data_key="_limit", load_default=_MAX_LIMIT, validate=validate.Range(0, _MAX_LIMIT)
    )
    include_schedules = fields.Boolean(
        load_default=False, metadata={"description": "whether each has its triggers"}
    )
    search = fields.String(load_default="", metadata={"description": "a part of the name"})
    tags = BoundedList(fields.String(), data_key="tag[]")


class SessionNew(RequestSchema):
    email = fields.String(allow_none=True)
    username = fields.String(allow_none=True)
    password = fields.String(allow_none=True)


class SessionBody(RequestSchema):
    session = fields.Nested(SessionNew, required=True)


class RunNew(RequestSchema):
    variables = BoundedDict(keys=fields.String(), allow_none=True)
    event_variables = BoundedDict(keys=fields.String(), allow_none=True)
    execution_date = Moment(allow_none=True)
    backfill_id = fields.Integer(strict=True, allow_none=True)


class RunBody(RequestSchema):
    pipeline_run = fields.Nested(RunNew, load_default=dict)


class RunChange(RequestSchema):
    """`status: cancelled`, or `pipeline_run_action: retry_blocks`."""

    status = fields.String(allow_none=True)
    pipeline_run_action = fields.String(allow_none=True)
    from_block_uuid = fields.String(allow_none=True)


class RunChangeBody(RequestSchema):
    pipeline_run = fields.Nested(RunChange, required=True)


class PipelineChange(RequestSchema):
    """`status`: what to do with runs; of all of the pipeline's, those named or a trigger's.

    `active` and `inactive` are for all of its triggers.
    """

    status = fields.String(
        required=True,
        validate=validate.OneOf(
            ["retry", "cancelled", "retry_incomplete_block_runs", *SCHEDULE_STATUSES]
        ),
    )
    pipeline_runs = BoundedList(
        fields.Raw(), allow_none=True, validate=validate.Length(1, _MAX_RUNS)
    )
    pipeline_schedule_id = fields.Integer(strict=True, allow_none=True)


class PipelineChangeBody(RequestSchema):
    pipeline = fields.Nested(PipelineChange, required=True)


def _check_seconds(value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MAX_SECONDS:
        raise ValidationError(f"must be seconds, from 0 to {_MAX_SECONDS:,}")


class Settings(Schema):
    """The settings that the core acts on; others are kept as they are."""

    class Meta:
        unknown = INCLUDE

    skip_if_previous_running = fields.Boolean(truthy={True}, falsy={False}, allow_none=True)
    allow_blocks_to_fail = fields.Boolean(truthy={True}, falsy={False}, allow_none=True)
    create_initial_pipeline_run = fields.Boolean(truthy={True}, falsy={False}, allow_none=True)
    pipeline_run_limit = fields.Integer(
        strict=True, validate=validate.Range(1, _MAX_RUNNING), allow_none=True
    )
    timezone = fields.String(
        allow_none=True, metadata={"description": "of its interval, not of Mage's; UTC without it"}
    )
    timeout = fields.Raw(validate=_check_seconds, allow_none=True)  # answered as it was sent
    timeout_status = fields.String(
        validate=validate.OneOf(["failed", "cancelled"]), allow_none=True
    )


class ScheduleChange(RequestSchema):
    name = fields.String(validate=validate.Length(1, 200), allow_none=True)
    description = fields.String(validate=validate.Length(max=2000), allow_none=True)
    schedule_type = fields.String(validate=validate.OneOf(list(SCHEDULE_TYPES)), allow_none=True)
    schedule_interval = fields.String(validate=validate.Length(max=200), allow_none=True)
    start_time = Moment(allow_none=True)
    status = fields.String(validate=validate.OneOf(SCHEDULE_STATUSES), allow_none=True)
    variables = BoundedDict(keys=fields.String(), allow_none=True)
    sla = fields.Float(allow_nan=False, validate=validate.Range(0, _MAX_SECONDS), allow_none=True)
    settings = fields.Nested(Settings, allow_none=True)
    event_matchers = BoundedList(BoundedDict(), allow_none=True)
    tags = BoundedList(
        fields.String(validate=validate.Length(1, 100)),
        validate=validate.Length(max=50),
        allow_none=True,
    )
    rotate_token = fields.Boolean(load_default=False)


class ScheduleBody(RequestSchema):
    pipeline_schedule = fields.Nested(ScheduleChange, required=True)
