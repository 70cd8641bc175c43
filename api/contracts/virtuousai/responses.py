"""The responses of this API; every member is always there, null if it has no value."""

from collections.abc import Callable
from functools import partial
from typing import Any

from marshmallow import fields

from api.contracts.virtuousai import mapping, vocabulary
from api.contracts.virtuousai.mapping import annotation, seconds_of
from api.contracts.virtuousai.vocabulary import EVENT_TYPES, STATES, STEP_STATES, TRIGGERS
from api.toolkit.fields import Timestamp
from api.toolkit.wire import (
    CamelCase,
    WireSchema,
    computed,
    constant,
    described,
    enumeration,
)
from orchestrator.work_limits import in_turns

_text = partial(described, fields.String)
_optional_text = partial(fields.String, allow_none=True)
_status = partial(enumeration, STATES.words)
_trigger_type = partial(enumeration, TRIGGERS.words)
_orchestrator_type = partial(enumeration, ("local", "dag"))
_text_or_null = partial(_text, allow_none=True)


def _annotation(field: fields.Field[Any], name: str, default: str | None) -> fields.Field[Any]:
    return computed(field, lambda view: annotation(view.workflow).get(name, default))


def _step_count(*words: str) -> Callable[[Any], int]:
    return lambda run: sum(STEP_STATES[step.state] in words for step in run.steps)


class Failure(CamelCase, WireSchema):
    """Why it failed."""

    type = _text("step_failed or timeout; of a step, the kind of error")
    message = fields.String()
    step_key = _optional_text()


class Run(CamelCase, WireSchema):
    """One run of an automation."""

    id = fields.UUID(attribute="run.id")
    tenant_id = fields.UUID(attribute="run.tenant_id")
    automation_id = fields.UUID(attribute="run.workflow_id")
    automation_version_id = fields.UUID(attribute="run.version_id")
    version_number = described(
        fields.Integer, "the version that runs, also in a retry", attribute="run.version"
    )
    status = computed(_status(), lambda view: STATES[view.run.state])
    trigger_type = computed(_trigger_type(), lambda view: TRIGGERS.get(view.run.trigger, "manual"))
    trigger_source_type = _text_or_null("user, schedule, webhook, automation or api_key")
    trigger_source_id = _optional_text()
    orchestrator_type = _annotation(_orchestrator_type(), "orchestrator_type", "dag")
    external_job_id = _text_or_null("Celery's id of the first task; null before there is one")
    concurrency_key = _text_or_null(
        "one run of the automation at a time may have it", attribute="run.concurrency_key"
    )
    error = fields.Nested(Failure, allow_none=True)
    started_at = Timestamp(allow_none=True, attribute="run.started_at")
    completed_at = Timestamp(allow_none=True, attribute="run.finished_at")
    duration_seconds = computed(
        fields.Float, lambda view: seconds_of(view.run), "null until it has ended", allow_none=True
    )
    created_at = Timestamp(attribute="run.created_at")
    updated_at = Timestamp()


class RunList(WireSchema):
    """One page of runs, the newest first."""

    items = fields.List(fields.Nested(Run))
    total = described(fields.Integer, "on all pages")


class Step(CamelCase, WireSchema):
    """One step of a run."""

    key = fields.String(attribute="step.key")
    name = fields.String(attribute="step.name")
    status = computed(
        enumeration(sorted(STEP_STATES.words)),
        lambda view: STEP_STATES[view.step.state],
    )
    depends_on = fields.List(fields.String(), attribute="step.needs")
    action_run_id = described(
        fields.UUID, "of the latest attempt; null before the first one", allow_none=True
    )
    decision_id = constant(_optional_text(), None)
    result = described(fields.Dict, "what is no object stands in it as `value`", allow_none=True)
    result_truncated = described(fields.Boolean, "the whole result is over 64 KiB")
    error = fields.Nested(Failure, allow_none=True)
    started_at = Timestamp(allow_none=True, attribute="step.started_at")
    completed_at = Timestamp(allow_none=True, attribute="step.finished_at")
    duration_seconds = computed(fields.Float, lambda view: seconds_of(view.step), allow_none=True)


class Steps(CamelCase, WireSchema):
    """The steps of a run. Those that were skipped or cancelled are in no counter."""

    automation_run_id = fields.UUID(attribute="id")
    completed_count = computed(fields.Integer, _step_count("completed"))
    failed_count = computed(fields.Integer, _step_count("failed"))
    pending_count = computed(fields.Integer, _step_count("pending", "queued"), "pending and queued")
    running_count = computed(fields.Integer, _step_count("running"))
    steps = computed(
        fields.List(fields.Nested(Step)),
        lambda run: [mapping.StepView.of(step) for step in in_turns(run.steps)],
    )


class LatestRun(CamelCase, WireSchema):
    """The run of an automation that was made last."""

    id = fields.UUID()
    status = computed(_status(), lambda run: STATES[run.state])
    started_at = Timestamp(allow_none=True)
    completed_at = Timestamp(allow_none=True, attribute="finished_at")
    version_number = fields.Integer(attribute="version")


class VersionsSummary(CamelCase, WireSchema):
    """How many versions there are; the latest is the active one."""

    count = fields.Integer(attribute="version")
    active_count = constant(fields.Integer, 1)
    has_draft = constant(fields.Boolean, False)


class Automation(CamelCase, WireSchema):
    """One automation, with the configuration of its latest version."""

    id = fields.UUID(attribute="workflow.id")
    tenant_id = fields.UUID(attribute="workflow.tenant_id")
    name = computed(fields.String, lambda view: mapping.name_of(view.workflow))
    description = computed(_optional_text(), lambda view: view.workflow.description or None)
    status = constant(_text("active"), vocabulary.ACTIVE)
    config = described(fields.Dict, "steps, params and options, as they were given")
    orchestrator_type = _annotation(_orchestrator_type(), "orchestrator_type", "dag")
    trigger_type = _annotation(_trigger_type(), "trigger_type", "manual")
    template_id = _annotation(_optional_text(), "template_id", None)
    source_type = constant(_text("manual"), "manual")
    source_agent_run_id = constant(_optional_text(), None)
    source_agent_spec_id = constant(_optional_text(), None)
    latest_run = fields.Nested(LatestRun, allow_none=True)
    versions_summary = fields.Nested(VersionsSummary, attribute="workflow")
    created_at = Timestamp(attribute="workflow.created_at")
    updated_at = Timestamp(attribute="workflow.updated_at")


class AutomationList(WireSchema):
    """One page of automations, the newest first."""

    items = fields.List(fields.Nested(Automation))
    total = described(fields.Integer, "on all pages")


class Token(CamelCase, WireSchema):
    """One access token, without its secret."""

    id = fields.String()
    name = fields.String()
    token_prefix = _text("how it begins", attribute="prefix")
    token_type = constant(
        fields.String(metadata={"enum": list(vocabulary.TOKEN_TYPES)}), vocabulary.TOKEN
    )
    created_at = Timestamp()
    expires_at = Timestamp(allow_none=True)
    last_used_at = Timestamp(allow_none=True)
    revoked_at = Timestamp(allow_none=True)


class NewToken(CamelCase, WireSchema):
    """A new access token, with its secret."""

    plaintext = fields.String()
    token = fields.Nested(Token)


class TokenList(CamelCase, WireSchema):
    """One page of access tokens, the oldest first."""

    items = fields.List(fields.Nested(Token))
    next_cursor = fields.UUID(allow_none=True)


class StreamedEvent(CamelCase, WireSchema):
    """Something that happened to a run of the tenant, in the stream of the run."""

    event_type = computed(
        enumeration(dict.fromkeys(EVENT_TYPES.values())), lambda event: EVENT_TYPES[event.type]
    )
    resource_type = constant(_text("automation_run"), vocabulary.RESOURCE)
    resource_id = fields.String(attribute="run_id")
    tenant_id = fields.String()
    occurred_at = Timestamp()
    payload = computed(fields.Dict, mapping.payload_of)


class Event(CamelCase, WireSchema):
    """Something that happened to a run of the tenant."""

    id = computed(fields.String, lambda view: str(view.event.id))
    event_type = computed(
        enumeration(dict.fromkeys(EVENT_TYPES.values())),
        lambda view: EVENT_TYPES[view.event.type],
    )
    resource_type = constant(_text("automation_run"), vocabulary.RESOURCE)
    resource_id = fields.String(attribute="event.run_id")
    actor_type = _text("user, api (a key), automation or system", attribute="actor.type")
    actor_id = _text_or_null("of the user, key or run", attribute="actor.id")
    tenant_id = fields.String(attribute="event.tenant_id")
    occurred_at = Timestamp(attribute="event.occurred_at")
    correlation_id = computed(
        _text("the same for all events of a run"), lambda view: view.event.run_id
    )
    causation_id = constant(_optional_text(), None)
    payload = computed(fields.Dict, lambda view: mapping.payload_of(view.event))


class EventList(CamelCase, WireSchema):
    """One page of events, the newest first."""

    events = fields.List(fields.Nested(Event))
    has_next = fields.Boolean()
    limit = fields.Integer()
    offset = fields.Integer()
    total = described(fields.Integer, "on all pages; counted up to 10,000")
