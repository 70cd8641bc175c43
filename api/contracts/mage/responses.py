"""What the API answers, field by field."""

from collections.abc import Callable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from marshmallow import Schema, fields, missing

from api.contracts.mage import vocabulary
from api.contracts.mage.mapping import (
    NO_SCHEDULE,
    BlockView,
    PipelineView,
    RunView,
    ScheduleView,
)
from api.contracts.mage.vocabulary import SCHEDULE_STATUSES, SCHEDULE_TYPES, SKIPS, STATES
from api.toolkit import hidden_params
from api.toolkit.context import caller, services
from api.toolkit.fields import Timestamp
from api.toolkit.wire import WireSchema, computed, constant, described, enumeration, optional
from orchestrator.access import signing
from orchestrator.access.permissions import Verb
from orchestrator.models import Overlap, Role
from orchestrator.spec.hidden_params import hidden_parts, hide
from orchestrator.spec.params import default_params

_TIMES = attrgetter("created_at", "queued_at", "started_at", "finished_at")  # of a step
HIDDEN = "[API_TOKEN_PLACEHOLDER]"
_ROLES = {Role.ADMIN: "Owner", Role.OPERATOR: "Editor", Role.VIEWER: "Viewer"}


class Moment(Timestamp):
    """`2026-04-02 05:00:00.120034+00:00`, without the fraction when it is zero."""

    def __init__(self, **options: Any) -> None:
        options["metadata"] = {"format": "sql-timestamp", **options.get("metadata", {})}
        super().__init__(**options)

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else str(value.astimezone(UTC))


def _completed_at(view: RunView | BlockView) -> datetime | None:
    row = view.run if isinstance(view, RunView) else view.step
    return row.finished_at if view.status in ("completed", "failed") else None


def _variables(view: RunView) -> Any:
    """Those of its payload; without one the parameters, of a trigger's run those that it sets."""
    if view.run.variables is not None:
        return hidden_params.shown_of_run(view.run, "variables")
    params = hidden_params.shown_of_run(view.run)
    if view.run.schedule_id is None:
        return params
    return {name: params[name] for name in view.schedule.params or () if name in params} or None


def _defaults(view: PipelineView) -> dict[str, Any]:
    """The defaults of a workflow's parameters, without those that it hides."""
    schema = view.spec.get("params", {})
    return dict(hide(hidden_parts(schema), default_params(schema)))


def _block_metrics(block: BlockView) -> dict[str, Any] | None:
    error = block.step.error
    if not error:
        return None
    trace, message = error.get("traceback") or "", error.get("message", "")
    return {"error": {"error": message, "errors": trace.splitlines(), "message": trace or message}}


def _token(view: RunView | ScheduleView) -> str:
    """The token of a trigger, for callers who may use it."""
    row = view.schedule
    if row is NO_SCHEDULE:
        return ""
    if not caller().may("schedules", Verb.CHANGE):
        return HIDDEN
    return signing.trigger_token(services().secret_key, row.id, row.token_number)


def _settings(view: ScheduleView) -> dict[str, Any]:
    """The settings as they were sent, and the present values of those that others may change."""
    row = view.schedule
    skips = row.overlap == Overlap.SKIP
    present = {SKIPS: skips} if skips or SKIPS in row.settings else {}
    return row.settings | present | ({} if row.timezone == "UTC" else {"timezone": row.timezone})


def _sla(view: ScheduleView) -> int | float | None:
    if view.schedule.sla is None:
        return None
    seconds = view.schedule.sla.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _of_schedule(field: fields.Field[Any], compute: Callable[[Any], Any]) -> fields.Field[Any]:
    return computed(field, lambda view: compute(view.schedule))


_SCHEDULE_TYPE = _of_schedule(
    fields.String(metadata={"enum": list(SCHEDULE_TYPES)}), vocabulary.schedule_type
)


class Block(WireSchema):
    """A block run: one step of a pipeline run."""

    id = fields.Integer(attribute="step.number")
    block_uuid = fields.String(attribute="step.key")
    pipeline_run_id = fields.Integer(attribute="run.number")
    status = fields.String(metadata={"enum": vocabulary.BLOCK_STATUSES})
    created_at = Moment(attribute="step.created_at")
    started_at = Moment(attribute="step.started_at", allow_none=True)
    completed_at = computed(Moment(allow_none=True), _completed_at)
    updated_at = computed(Moment, lambda block: max(filter(None, _TIMES(block.step))))
    metrics = computed(
        fields.Dict, _block_metrics, "`error` of a block that failed", allow_none=True
    )


class BlockOfRun(Block):
    """A block run that names its trigger."""

    pipeline_schedule_id = fields.Integer(attribute="schedule.number")
    pipeline_schedule_name = fields.String(attribute="schedule.name")


class Run(WireSchema):
    id = fields.Integer(attribute="run.number")
    created_at = Moment(attribute="run.created_at")
    updated_at = Moment(attribute="changed_at")
    pipeline_schedule_id = described(
        fields.Integer, "0: no trigger started it, or it is gone", attribute="schedule.number"
    )
    pipeline_uuid = fields.String(attribute="run.workflow")
    execution_date = computed(
        Moment(allow_none=True), lambda view: view.run.logical_date or view.run.created_at
    )
    status = fields.String(metadata={"enum": STATES.words})
    started_at = Moment(attribute="run.started_at", allow_none=True)
    completed_at = computed(Moment, _completed_at, "when it completed or failed", allow_none=True)
    variables = computed(fields.Dict, _variables, "what it was started with", allow_none=True)
    passed_sla = fields.Boolean(attribute="run.passed_sla")
    event_variables = computed(
        described(fields.Dict, "the payload of its trigger, if it had one", allow_none=True),
        lambda view: hidden_params.shown_of_run(view.run, "event_variables"),
    )
    metrics = fields.Dict(allow_none=True)
    backfill_id = fields.Integer(attribute="backfill.number", allow_none=True)
    executor_type = constant(fields.String, "local_python")


class RunItem(Run):
    block_runs = fields.List(fields.Nested(Block), attribute="blocks")
    block_runs_count = computed(fields.Integer, lambda view: len(view.blocks))
    completed_block_runs_count = computed(
        fields.Integer, lambda view: sum(block.status == "completed" for block in view.blocks)
    )
    pipeline_schedule_name = fields.String(attribute="schedule.name")
    pipeline_schedule_token = computed(fields.String, _token, "not shown to viewers")
    pipeline_schedule_type = _SCHEDULE_TYPE
    repo_path = constant(fields.String(allow_none=True), None)


class RunDetailed(Run):
    block_runs = fields.List(fields.Nested(BlockOfRun), attribute="blocks")


class Schedule(WireSchema):
    """A trigger."""

    id = fields.Integer(attribute="schedule.number")
    name = fields.String(attribute="schedule.name")
    description = fields.String(attribute="schedule.description", allow_none=True)
    pipeline_uuid = fields.String(attribute="schedule.workflow")
    schedule_type = _SCHEDULE_TYPE
    schedule_interval = _of_schedule(
        described(fields.String, "`@daily` …, or a cron rule", allow_none=True),
        vocabulary.schedule_interval,
    )
    start_time = _of_schedule(Moment(allow_none=True), vocabulary.start_time)
    status = computed(
        fields.String(metadata={"enum": SCHEDULE_STATUSES}),
        lambda view: "active" if view.schedule.active else "inactive",
    )
    last_enabled_at = Moment(attribute="schedule.last_enabled_at", allow_none=True)
    variables = _of_schedule(
        fields.Dict(allow_none=True), lambda row: hidden_params.shown_of_workflow(row) or None
    )
    sla = computed(fields.Float, _sla, "seconds until a run is flagged", allow_none=True)
    token = computed(fields.String, _token, "not shown to viewers")
    settings = computed(fields.Dict, _settings)
    repo_path = constant(fields.String(allow_none=True), None)
    global_data_product_uuid = constant(fields.String(allow_none=True), None)
    created_at = Moment(attribute="schedule.created_at")
    updated_at = Moment(attribute="schedule.updated_at")
    event_matchers = _of_schedule(
        fields.List(fields.Dict(), metadata={"description": "ends of runs"}),
        vocabulary.event_matchers,
    )
    tags = fields.List(fields.String(), attribute="schedule.tags")
    next_pipeline_run_date = Moment(attribute="schedule.next_at", allow_none=True)


class ScheduleItem(Schedule):
    last_pipeline_run_status = computed(
        enumeration(STATES.words, allow_none=True),
        lambda view: view.last_run and vocabulary.run_status(view.last_run, view.schedule),
    )
    pipeline_runs_count = computed(fields.Integer, lambda view: sum(view.counts.values()))
    pipeline_in_progress_runs_count = computed(
        fields.Integer, lambda view: sum(view.counts[state] for state in vocabulary.IN_PROGRESS)
    )


class PipelineBlock(WireSchema):
    """A step of a workflow; what has no equal here is empty."""

    uuid = computed(fields.String, lambda step: step["key"])
    name = computed(fields.String, lambda step: step.get("name", step["key"]))
    type = constant(fields.String, "custom")
    language = constant(fields.String, "python")
    status = constant(fields.String, "not_executed")
    upstream_blocks = fields.List(fields.String(), attribute="needs")
    downstream_blocks = fields.List(fields.String(), attribute="after")
    all_upstream_blocks_executed = constant(fields.Boolean, False)
    color = constant(fields.String(allow_none=True), None)
    configuration = constant(fields.Dict, {})
    executor_config = constant(fields.Dict(allow_none=True), None)
    executor_type = constant(fields.String, "local_python")
    has_callback = constant(fields.Boolean(allow_none=True), None)
    content = constant(fields.String, "")
    metadata = constant(fields.Dict, {})


_BRIEF = (
    "created_at", "id", "name", "pipeline_uuid", "schedule_interval", "schedule_type",
    "start_time", "status", "updated_at",
)  # fmt: skip
PipelineSchedule = WireSchema.from_dict(
    {name: Schedule._declared_fields[name] for name in _BRIEF}, name="PipelineSchedule"
)


class Pipeline(WireSchema):
    """A workflow as its latest version is; what has no equal here is empty."""

    uuid = computed(fields.String, lambda view: view.workflow.name)
    name = fields.String(attribute="workflow.name")
    description = computed(
        fields.String(allow_none=True), lambda view: view.workflow.description or None
    )
    type = constant(fields.String, "python")
    tags = computed(fields.List(fields.String()), lambda view: view.spec.get("tags", ()))
    blocks = fields.List(fields.Nested(PipelineBlock), attribute="steps")
    variables = computed(fields.Dict, _defaults, "the defaults of its parameters")
    schedules = optional(
        computed(
            fields.List(fields.Nested(PipelineSchedule)),
            lambda view: missing if view.schedules is None else view.schedules,
            "with `include_schedules`",
        )
    )
    callbacks = constant(fields.List(fields.Dict()), ())
    conditionals = constant(fields.List(fields.Dict()), ())
    widgets = constant(fields.List(fields.Dict()), ())
    extensions = constant(fields.Dict, {})
    data_integration = constant(fields.Dict(allow_none=True), None)
    executor_config = constant(fields.Dict, {})
    executor_count = constant(fields.Integer, 1)
    executor_type = constant(fields.String(allow_none=True), None)
    notification_config = constant(fields.Dict, {})
    spark_config = constant(fields.Dict, {})
    created_at = Moment(attribute="workflow.created_at")
    updated_at = Moment(attribute="workflow.updated_at")


class User(WireSchema):
    """The owner of a key; what has no equal here is null."""

    id = computed(fields.Integer, lambda caller: caller.key_id.int % 2**31)
    username = fields.String(attribute="submitter")
    email = fields.String(attribute="user", allow_none=True)
    avatar = constant(fields.String(allow_none=True), None)
    first_name = constant(fields.String(allow_none=True), None)
    last_name = constant(fields.String(allow_none=True), None)
    owner = computed(fields.Boolean, lambda caller: caller.role == Role.ADMIN)
    roles = constant(fields.Integer(allow_none=True), None)
    roles_display = computed(fields.String, lambda caller: _ROLES[caller.role])


class Session(WireSchema):
    expires = Moment(attribute="expires_at")
    token = fields.String()
    user = fields.Nested(User, attribute="caller")


class Status(WireSchema):
    """The state of the server; what has no equal here is null."""

    is_instance_manager = constant(fields.Boolean, False)
    scheduler_status = fields.String(metadata={"enum": ["running", "stopped"]})
    require_user_authentication = constant(fields.Boolean, True)
    require_user_permissions = constant(fields.Boolean, True)
    disable_pipeline_edit_access = constant(fields.Boolean, True)
    instance_type = constant(fields.String(allow_none=True), None)
    max_print_output_lines = constant(fields.Integer(allow_none=True), None)
    project_type = constant(fields.String, "standalone")
    project_uuid = constant(fields.String(allow_none=True), None)
    repo_path = constant(fields.String(allow_none=True), None)
    repo_path_relative = constant(fields.String(allow_none=True), None)
    repo_path_relative_root = constant(fields.String(allow_none=True), None)
    repo_path_root = constant(fields.String(allow_none=True), None)
    scheduler_process_id = constant(fields.Integer(allow_none=True), None)
    server_process_id = constant(fields.Integer(allow_none=True), None)


class Metadata(WireSchema):
    """How many there are on all pages, and whether one more comes after this one."""

    count = fields.Integer()
    next = fields.Boolean()


def _one(name: str, **member: type[Schema]) -> type[Schema]:
    """An answer with one row."""
    rows = {key: fields.Nested(schema) for key, schema in member.items()}
    return WireSchema.from_dict({**rows, "metadata": fields.Dict(allow_none=True)}, name=name)


def _page(name: str, **member: type[Schema]) -> type[Schema]:
    """An answer with a page of rows."""
    rows = {key: fields.List(fields.Nested(schema)) for key, schema in member.items()}
    return WireSchema.from_dict({**rows, "metadata": fields.Nested(Metadata)}, name=name)


OneRun = _one("OneRun", pipeline_run=Run)
OneRunDetailed = _one("OneRunDetailed", pipeline_run=RunDetailed)
OneSchedule = _one("OneSchedule", pipeline_schedule=Schedule)
OnePipeline = _one("OnePipeline", pipeline=Pipeline)
OneSession = _one("OneSession", session=Session)
Triggered = WireSchema.from_dict({"pipeline_run": fields.Nested(Run)}, name="Triggered")
Runs = _page("Runs", pipeline_runs=RunItem)
Blocks = _page("Blocks", block_runs=BlockOfRun)
Schedules = _page("Schedules", pipeline_schedules=ScheduleItem)
Pipelines = _page("Pipelines", pipelines=Pipeline)
Statuses = _page("Statuses", statuses=Status)


class Reason(WireSchema):
    """Why a request was refused; of a trigger's address without a type."""

    code = fields.Integer()
    message = fields.String()
    type = optional(fields.String())
    errors = optional(fields.List(fields.String()))
    exception = optional(fields.String())


class Refusal(WireSchema):
    """Why a request was refused; the code of HTTP is 200 unless `_http_error_codes` is given."""

    error = fields.Nested(Reason)
    status = optional(described(fields.Integer, "200, or the code of HTTP where it is told"))
    url_parameters = optional(
        described(fields.Dict, "of a trigger's address, without its token, and only there")
    )
