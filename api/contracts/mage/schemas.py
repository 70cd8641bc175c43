"""What the API shows and is asked, as its document says it."""

from datetime import UTC, datetime
from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, fields, validate

from api.contracts.mage.shapes import moment
from api.schemas import Shown, Timestamp

LIMIT, MOST = 40, 1000  # rows of a page
MOST_RUNS = 100  # named in one request
_LONGEST = 10 * 365 * 86400  # seconds
_RUN_WORDS = ["initial", "running", "completed", "failed", "cancelled"]
_BLOCK_WORDS = [*_RUN_WORDS, "queued", "upstream_failed", "condition_failed"]
_LAST_MOMENT = 253_402_300_799  # the end of the year 9999


class Moment(Timestamp):
    """`2026-04-02 05:00:00.120034+00:00`, without the fraction when it is zero."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str | None:
        return moment(value)


def _told(kind: type[fields.Field[Any]], text: str, **options: Any) -> fields.Field[Any]:
    return kind(metadata={"description": text}, **options)


class MageBlock(Shown):
    """A block run: one step of a pipeline run."""

    id = fields.Integer()
    block_uuid = fields.String()
    pipeline_run_id = fields.Integer()
    status = fields.String(metadata={"enum": _BLOCK_WORDS})
    created_at = Moment()
    started_at = Moment(allow_none=True)
    completed_at = Moment(allow_none=True)
    updated_at = Moment()
    metrics = _told(fields.Dict, "`error` of a block that failed", allow_none=True)


class MageBlockOfRun(MageBlock):
    """A block run that names its trigger."""

    pipeline_schedule_id = fields.Integer()
    pipeline_schedule_name = fields.String()


class MageRun(Shown):
    """A pipeline run."""

    id = fields.Integer()
    created_at = Moment()
    updated_at = Moment()
    pipeline_schedule_id = _told(fields.Integer, "0: no trigger started it, or it is gone")
    pipeline_uuid = fields.String()
    execution_date = Moment(allow_none=True)
    status = fields.String(metadata={"enum": _RUN_WORDS})
    started_at = Moment(allow_none=True)
    completed_at = _told(Moment, "when it completed or failed", allow_none=True)
    variables = _told(fields.Dict, "what it was started with", allow_none=True)
    passed_sla = fields.Boolean()
    event_variables = _told(fields.Dict, "the payload of its trigger", allow_none=True)
    metrics = fields.Dict(allow_none=True)
    backfill_id = fields.Integer(allow_none=True)
    executor_type = fields.String()


class MageRunListed(MageRun):
    """A pipeline run of a list."""

    block_runs = fields.List(fields.Nested(MageBlock))
    block_runs_count = fields.Integer()
    completed_block_runs_count = fields.Integer()
    pipeline_schedule_name = fields.String()
    pipeline_schedule_token = _told(fields.String, "not shown to viewers")
    pipeline_schedule_type = fields.String(metadata={"enum": ["api", "event", "time"]})
    repo_path = fields.String(allow_none=True)


class MageRunDetailed(MageRun):
    """A pipeline run with its block runs."""

    block_runs = fields.List(fields.Nested(MageBlockOfRun))


class MageSchedule(Shown):
    """A trigger."""

    id = fields.Integer()
    name = fields.String()
    description = fields.String(allow_none=True)
    pipeline_uuid = fields.String()
    schedule_type = fields.String(metadata={"enum": ["api", "event", "time"]})
    schedule_interval = _told(fields.String, "`@daily` …, or a cron rule", allow_none=True)
    start_time = Moment(allow_none=True)
    status = fields.String(metadata={"enum": ["active", "inactive"]})
    last_enabled_at = Moment(allow_none=True)
    variables = fields.Dict()
    sla = _told(fields.Float, "seconds until a run is flagged", allow_none=True)
    token = _told(fields.String, "not shown to viewers")
    settings = fields.Dict()
    repo_path = fields.String(allow_none=True)
    global_data_product_uuid = fields.String(allow_none=True)
    created_at = Moment()
    updated_at = Moment()
    event_matchers = _told(fields.List, "ends of runs", cls_or_instance=fields.Dict())
    tags = fields.List(fields.String())
    next_pipeline_run_date = Moment(allow_none=True)


class MageScheduleListed(MageSchedule):
    """A trigger of a list."""

    last_pipeline_run_status = fields.String(allow_none=True)
    pipeline_runs_count = fields.Integer()
    pipeline_in_progress_runs_count = fields.Integer()


class MagePipeline(Shown):
    """A pipeline."""

    uuid = fields.String()
    name = fields.String()
    description = fields.String(allow_none=True)
    type = fields.String()
    tags = fields.List(fields.String())
    blocks = fields.List(fields.Dict())
    created_at = Moment()
    updated_at = Moment()


class MageMetadata(Schema):
    """How many there are on all pages, and whether one more comes after this one."""

    count = fields.Integer()
    next = fields.Boolean()


class MageTriggered(Schema):
    """The run that a trigger started."""

    pipeline_run = fields.Nested(MageRun)


class MageOneRun(Schema):
    """One pipeline run."""

    pipeline_run = fields.Nested(MageRun)
    metadata = fields.Dict(allow_none=True)


class MageOneRunDetailed(Schema):
    """One pipeline run with its block runs."""

    pipeline_run = fields.Nested(MageRunDetailed)
    metadata = fields.Dict(allow_none=True)


class MageRuns(Schema):
    """A page of pipeline runs."""

    pipeline_runs = fields.List(fields.Nested(MageRunListed))
    metadata = fields.Nested(MageMetadata)


class MageBlocks(Schema):
    """A page of block runs."""

    block_runs = fields.List(fields.Nested(MageBlockOfRun))
    metadata = fields.Nested(MageMetadata)


class MageOneSchedule(Schema):
    """One trigger."""

    pipeline_schedule = fields.Nested(MageSchedule)
    metadata = fields.Dict(allow_none=True)


class MageSchedules(Schema):
    """A page of triggers."""

    pipeline_schedules = fields.List(fields.Nested(MageScheduleListed))
    metadata = fields.Nested(MageMetadata)


class MageOnePipeline(Schema):
    """One pipeline."""

    pipeline = fields.Nested(MagePipeline)
    metadata = fields.Dict(allow_none=True)


class Asked(Schema):
    """A body or query; members that are not known are passed over."""

    class Meta:
        unknown = EXCLUDE


class Page(Asked):
    """Which part of a list."""

    limit = fields.Integer(data_key="_limit", load_default=LIMIT, validate=validate.Range(0, MOST))
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

    status = fields.String(metadata={"enum": [*_RUN_WORDS, "last_run_failed"]})
    statuses = fields.List(fields.String(), data_key="status[]")
    pipeline_uuid = fields.String()
    pipeline_uuids = fields.List(fields.String(), data_key="pipeline_uuid[]")
    pipeline_tags = fields.List(fields.String(), data_key="pipeline_tag[]")
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
        fields.Raw(), allow_none=True, validate=validate.Length(1, MOST_RUNS)
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
