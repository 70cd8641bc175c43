"""What the API shows, as its document says it."""

from typing import Any

from marshmallow import Schema, fields

from api.contracts.mage.mapping import moment
from api.toolkit.fields import ResponseSchema, Timestamp

RUN_WORDS = ["initial", "running", "completed", "failed", "cancelled"]
_BLOCK_WORDS = [*RUN_WORDS, "queued", "upstream_failed", "condition_failed"]


class Moment(Timestamp):
    """`2026-04-02 05:00:00.120034+00:00`, without the fraction when it is zero."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str | None:
        return moment(value)


def _told(kind: type[fields.Field[Any]], text: str, **options: Any) -> fields.Field[Any]:
    return kind(metadata={"description": text}, **options)


class Block(ResponseSchema):
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


class BlockOfRun(Block):
    """A block run that names its trigger."""

    pipeline_schedule_id = fields.Integer()
    pipeline_schedule_name = fields.String()


class Run(ResponseSchema):
    """A pipeline run."""

    id = fields.Integer()
    created_at = Moment()
    updated_at = Moment()
    pipeline_schedule_id = _told(fields.Integer, "0: no trigger started it, or it is gone")
    pipeline_uuid = fields.String()
    execution_date = Moment(allow_none=True)
    status = fields.String(metadata={"enum": RUN_WORDS})
    started_at = Moment(allow_none=True)
    completed_at = _told(Moment, "when it completed or failed", allow_none=True)
    variables = _told(fields.Dict, "what it was started with", allow_none=True)
    passed_sla = fields.Boolean()
    event_variables = _told(fields.Dict, "the payload of its trigger", allow_none=True)
    metrics = fields.Dict(allow_none=True)
    backfill_id = fields.Integer(allow_none=True)
    executor_type = fields.String()


class RunListed(Run):
    """A pipeline run of a list."""

    block_runs = fields.List(fields.Nested(Block))
    block_runs_count = fields.Integer()
    completed_block_runs_count = fields.Integer()
    pipeline_schedule_name = fields.String()
    pipeline_schedule_token = _told(fields.String, "not shown to viewers")
    pipeline_schedule_type = fields.String(metadata={"enum": ["api", "event", "time"]})
    repo_path = fields.String(allow_none=True)


class RunDetailed(Run):
    """A pipeline run with its block runs."""

    block_runs = fields.List(fields.Nested(BlockOfRun))


class Schedule(ResponseSchema):
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


class ScheduleListed(Schedule):
    """A trigger of a list."""

    last_pipeline_run_status = fields.String(allow_none=True)
    pipeline_runs_count = fields.Integer()
    pipeline_in_progress_runs_count = fields.Integer()


class Pipeline(ResponseSchema):
    """A pipeline."""

    uuid = fields.String()
    name = fields.String()
    description = fields.String(allow_none=True)
    type = fields.String()
    tags = fields.List(fields.String())
    blocks = fields.List(fields.Dict())
    created_at = Moment()
    updated_at = Moment()


class Metadata(Schema):
    """How many there are on all pages, and whether one more comes after this one."""

    count = fields.Integer()
    next = fields.Boolean()


class Triggered(Schema):
    """The run that a trigger started."""

    pipeline_run = fields.Nested(Run)


class OneRun(Schema):
    """One pipeline run."""

    pipeline_run = fields.Nested(Run)
    metadata = fields.Dict(allow_none=True)


class OneRunDetailed(Schema):
    """One pipeline run with its block runs."""

    pipeline_run = fields.Nested(RunDetailed)
    metadata = fields.Dict(allow_none=True)


class Runs(Schema):
    """A page of pipeline runs."""

    pipeline_runs = fields.List(fields.Nested(RunListed))
    metadata = fields.Nested(Metadata)


class Blocks(Schema):
    """A page of block runs."""

    block_runs = fields.List(fields.Nested(BlockOfRun))
    metadata = fields.Nested(Metadata)


class OneSchedule(Schema):
    """One trigger."""

    pipeline_schedule = fields.Nested(Schedule)
    metadata = fields.Dict(allow_none=True)


class Schedules(Schema):
    """A page of triggers."""

    pipeline_schedules = fields.List(fields.Nested(ScheduleListed))
    metadata = fields.Nested(Metadata)


class OnePipeline(Schema):
    """One pipeline."""

    pipeline = fields.Nested(Pipeline)
    metadata = fields.Dict(allow_none=True)


class Refusal(Schema):
    """Why a request was refused; the code of HTTP is 200 unless `_http_error_codes` is given."""

    error = _told(fields.Dict, "`code`, `message`, `type`, and `errors` where there are several")
    status = _told(fields.Integer, "200, or the code of HTTP where it is told")
