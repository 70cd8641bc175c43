"""What the API is asked: queries and bodies, and what is right in them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, fields, pre_load, validate

from api.contracts.mage.responses import RUN_WORDS, Moment

_LIMIT, _MOST = 40, 1000  # rows of a page
_MOST_RUNS = 100  # named in one request
_LONGEST = 10 * 365 * 86400  # seconds
_LAST_MOMENT = 253_402_300_799  # the end of the year 9999


class Asked(Schema):
    """A body or query; members that are not known are passed over."""

    class Meta:
        unknown = EXCLUDE


class Page(Asked):
    """Which part of a list; a parameter without a value is as if it were not there."""

    @pre_load
    def _drop_empty(self, query: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        return {name: query[name] for name in query if query[name] != ""}

    limit = fields.Integer(
        data_key="_limit", load_default=_LIMIT, validate=validate.Range(0, _MOST)
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
        if not 0 <= seconds <= _LAST_MOMENT:
            raise ValidationError("not seconds since 1970, as in 1775109600")
        return datetime.fromtimestamp(seconds, UTC)


class RunQuery(Page):
    """Which pipeline runs; names that end in [] take several values with commas between them."""

    status = fields.String(metadata={"enum": [*RUN_WORDS, "last_run_failed"]})
    statuses = fields.List(fields.String(), data_key="status[]")
    pipeline_uuid = fields.String()
    pipeline_uuids = fields.List(fields.String(), data_key="pipeline_uuid[]")
    pipeline_tags = fields.List(
        fields.String(),
        data_key="pipeline_tag[]",
        metadata={"description": "of the pipeline as it is now; one of them is enough"},
    )
    backfill_id = fields.Integer()
    start_timestamp = Epoch(metadata={"description": "created then or later, in epoch seconds"})
    end_timestamp = Epoch(metadata={"description": "created then or earlier, in epoch seconds"})
    order_by = fields.List(
        fields.String(),
        data_key="order_by[]",
        metadata={"description": "`execution_date`, `id` or `created_at`, then `asc` or `desc`"},
    )


class BlockQuery(Page):
    """Which block runs."""

    pipeline_run_id = fields.String(required=True)


class ScheduleQuery(Page):
    """Which triggers."""

    pipeline_uuid = fields.String()
    status = fields.String(validate=validate.OneOf(["active", "inactive"]))


class RunNew(Asked):
    """With what a trigger starts a run."""

    variables = fields.Dict(keys=fields.String(), allow_none=True)
    event_variables = fields.Dict(keys=fields.String(), allow_none=True)
    execution_date = Moment(allow_none=True)
    backfill_id = fields.Integer(strict=True, allow_none=True)


class RunAsked(Asked):
    """A run to start."""

    pipeline_run = fields.Nested(RunNew, load_default=dict)


class RunChange(Asked):
    """`status: cancelled`, or `pipeline_run_action: retry_blocks`."""

    status = fields.String(allow_none=True)
    pipeline_run_action = fields.String(allow_none=True)
    from_block_uuid = fields.String(allow_none=True)


class RunChangeAsked(Asked):
    """What to do with a run."""

    pipeline_run = fields.Nested(RunChange, required=True)


class PipelineChange(Asked):
    """`status`: what to do with runs; of all of the pipeline's, those named or a trigger's."""

    status = fields.String(
        required=True,
        validate=validate.OneOf(["retry", "cancelled", "retry_incomplete_block_runs"]),
    )
    pipeline_runs = fields.List(
        fields.Raw(), allow_none=True, validate=validate.Length(1, _MOST_RUNS)
    )
    pipeline_schedule_id = fields.Integer(strict=True, allow_none=True)


class PipelineChangeAsked(Asked):
    """What to do with the runs of a pipeline."""

    pipeline = fields.Nested(PipelineChange, required=True)


def _check_seconds(value: Any) -> None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not 0 <= value <= _LONGEST:
        raise ValidationError(f"must be seconds, from 0 to {_LONGEST:,}")


class Settings(Schema):
    """What the core acts on; whatever else is in it is kept."""

    class Meta:
        unknown = INCLUDE

    skip_if_previous_running = fields.Boolean(truthy={True}, falsy={False}, allow_none=True)
    timeout = fields.Raw(validate=_check_seconds, allow_none=True)  # shown as it was given
    timeout_status = fields.String(
        validate=validate.OneOf(["failed", "cancelled"]), allow_none=True
    )


class ScheduleChange(Asked):
    """What may be given of a trigger."""

    name = fields.String(validate=validate.Length(1, 200), allow_none=True)
    description = fields.String(validate=validate.Length(max=2000), allow_none=True)
    schedule_type = fields.String(
        validate=validate.OneOf(["api", "event", "time"]), allow_none=True
    )
    schedule_interval = fields.String(validate=validate.Length(max=200), allow_none=True)
    start_time = Moment(allow_none=True)
    status = fields.String(validate=validate.OneOf(["active", "inactive"]), allow_none=True)
    variables = fields.Dict(keys=fields.String(), allow_none=True)
    sla = fields.Float(allow_nan=False, validate=validate.Range(0, _LONGEST), allow_none=True)
    settings = fields.Nested(Settings, allow_none=True)
    event_matchers = fields.List(fields.Dict(), allow_none=True)
    tags = fields.List(
        fields.String(validate=validate.Length(1, 100)),
        validate=validate.Length(max=50),
        allow_none=True,
    )
    rotate_token = fields.Boolean(load_default=False)


class ScheduleAsked(Asked):
    """A trigger, or what to change of one."""

    pipeline_schedule = fields.Nested(ScheduleChange, required=True)
