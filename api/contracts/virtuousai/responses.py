"""What it answers, field by field; every key is always there, null where there is nothing."""

from typing import Any

from marshmallow import Schema, fields

from api.contracts.virtuousai.mapping import STATUSES, STEP_STATES
from api.toolkit.fields import ResponseSchema, Timestamp


def camel(name: str) -> str:
    """The name as its JSON has it."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


class _Camel(ResponseSchema):
    """Our names inside, its names outside."""

    def on_bind_field(self, field_name: str, field_obj: Any) -> None:
        field_obj.data_key = camel(field_name)


def _said(description: str, **more: Any) -> dict[str, Any]:
    return {"description": description, **more}


class Failure(_Camel):
    """Why it failed."""

    type = fields.String(metadata=_said("step_failed or timeout; of a step, the kind of error"))
    message = fields.String()
    step_key = fields.String(allow_none=True)


class Run(_Camel):
    """One run of an automation."""

    id = fields.UUID()
    tenant_id = fields.UUID()
    automation_id = fields.UUID()
    automation_version_id = fields.UUID()
    version_number = fields.Integer(metadata=_said("the version that runs, also in a retry"))
    status = fields.String(metadata={"enum": STATUSES})
    trigger_type = fields.String(metadata=_said("manual, schedule or webhook"))
    trigger_source_type = fields.String(
        allow_none=True, metadata=_said("user, schedule, webhook, automation or api_key")
    )
    trigger_source_id = fields.String(allow_none=True)
    orchestrator_type = fields.String(metadata=_said("local or dag"))
    external_job_id = fields.String(
        allow_none=True, metadata=_said("Celery's id of the first task; null before there is one")
    )
    concurrency_key = fields.String(
        allow_none=True, metadata=_said("one run of the automation at a time may have it")
    )
    error = fields.Nested(Failure, allow_none=True)
    started_at = Timestamp(allow_none=True)
    completed_at = Timestamp(allow_none=True)
    duration_seconds = fields.Float(allow_none=True, metadata=_said("null until it has ended"))
    created_at = Timestamp()
    updated_at = Timestamp()


class RunList(Schema):
    """One page of runs, the newest first."""

    items = fields.List(fields.Nested(Run))
    total = fields.Integer(metadata=_said("on all pages"))


class Step(_Camel):
    """One step of a run."""

    key = fields.String()
    name = fields.String()
    status = fields.String(metadata={"enum": sorted({*STEP_STATES.values()})})
    depends_on = fields.List(fields.String())
    action_run_id = fields.UUID(
        allow_none=True, metadata=_said("of the latest attempt; null before the first one")
    )
    decision_id = fields.String(allow_none=True)
    result = fields.Dict(
        allow_none=True, metadata=_said("what is no object stands in it as `value`")
    )
    result_truncated = fields.Boolean(metadata=_said("the whole result is over 64 KiB"))
    error = fields.Nested(Failure, allow_none=True)
    started_at = Timestamp(allow_none=True)
    completed_at = Timestamp(allow_none=True)
    duration_seconds = fields.Float(allow_none=True)


class Steps(_Camel):
    """The steps of a run. Those that were skipped or cancelled are in no counter."""

    automation_run_id = fields.UUID()
    completed_count = fields.Integer()
    failed_count = fields.Integer()
    pending_count = fields.Integer(metadata=_said("pending and queued"))
    running_count = fields.Integer()
    steps = fields.List(fields.Nested(Step))


class LatestRun(_Camel):
    """The run of an automation that was made last."""

    id = fields.UUID()
    status = fields.String(metadata={"enum": STATUSES})
    started_at = Timestamp(allow_none=True)
    completed_at = Timestamp(allow_none=True)
    version_number = fields.Integer()


class VersionsSummary(_Camel):
    """How many versions there are; the latest is the active one."""

    count = fields.Integer()
    active_count = fields.Integer()
    has_draft = fields.Boolean()


class Automation(_Camel):
    """One automation, with the configuration of its latest version."""

    id = fields.UUID()
    tenant_id = fields.UUID()
    name = fields.String()
    description = fields.String(allow_none=True)
    status = fields.String(metadata=_said("active"))
    config = fields.Dict(metadata=_said("steps, params and options, as they were given"))
    orchestrator_type = fields.String(metadata=_said("local or dag"))
    trigger_type = fields.String(metadata=_said("manual, schedule or webhook"))
    template_id = fields.String(allow_none=True)
    source_type = fields.String(metadata=_said("manual"))
    source_agent_run_id = fields.String(allow_none=True)
    source_agent_spec_id = fields.String(allow_none=True)
    latest_run = fields.Nested(LatestRun, allow_none=True)
    versions_summary = fields.Nested(VersionsSummary)
    created_at = Timestamp()
    updated_at = Timestamp()


class AutomationList(Schema):
    """One page of automations, the newest first."""

    items = fields.List(fields.Nested(Automation))
    total = fields.Integer(metadata=_said("on all pages"))


class Event(_Camel):
    """Something that happened to a run of the tenant."""

    id = fields.String()
    event_type = fields.String()
    resource_type = fields.String(metadata=_said("automation_run"))
    resource_id = fields.String()
    actor_type = fields.String(allow_none=True)
    actor_id = fields.String(allow_none=True)
    tenant_id = fields.String()
    occurred_at = Timestamp()
    correlation_id = fields.String(metadata=_said("the same for all events of a run"))
    causation_id = fields.String(allow_none=True)
    payload = fields.Dict()


class EventList(_Camel):
    """One page of events, the newest first."""

    events = fields.List(fields.Nested(Event))
    has_next = fields.Boolean()
    limit = fields.Integer()
    offset = fields.Integer()
    total = fields.Integer(metadata=_said("on all pages; counted up to 10,000"))


class Mistake(Schema):
    """One thing that is wrong."""

    loc = fields.List(fields.Raw(), metadata=_said("where: body, path, query or header, and what"))
    msg = fields.String(metadata=_said("what would be right"))
    type = fields.String()


class Unprocessable(Schema):
    """What is wrong with a request."""

    detail = fields.List(fields.Nested(Mistake))


class Refused(Schema):
    """Why a request was refused."""

    detail = fields.String()


class Refusal(Schema):
    """Why a request was refused."""

    detail = fields.Raw(metadata=_said("with 422 a list of loc, msg and type, else a text"))
